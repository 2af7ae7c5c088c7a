"""Training-free methods on ADE20K, 150 classes, 2000 pictures of the val split.

  python -m ovseg_jax.main --config configs/training_free/ade150.py:naclip

Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 2.1, maskclip 9.8, gem 15.7, sclip 16.45, clearclip 16.7, naclip 19.05 (17.4
without PAMR), proxyclip 20.2.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = common.METHODS
LABEL_SPACES = {
    "sclip": "ade150_training_free",
    "naclip": "ade150_training_free",
    "clearclip": "ade150_training_free",
    "proxyclip": "ade150_training_free",
}
CHANGES = {
    "proxyclip": dict(short_side=448),
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="ade20k", root="data/ade20k", split="val")
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
