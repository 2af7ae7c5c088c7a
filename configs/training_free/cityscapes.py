"""Training-free methods on Cityscapes, 19 classes, 500 pictures of the val split.

  python -m ovseg_jax.main --config configs/training_free/cityscapes.py:naclip

Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 5.5, maskclip 12.6, gem 30.8, sclip 32.34, clearclip 30.0, naclip 38.27 (35.5
without PAMR), proxyclip 38.1.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables.
ClearCLIP's windows do not overlap.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = common.METHODS
LABEL_SPACES = {
    "sclip": "cityscapes19_training_free",
    "naclip": "cityscapes19_training_free",
    "clearclip": "cityscapes19_training_free",
    "proxyclip": "cityscapes19_training_free",
}
CHANGES = {
    "sclip": dict(short_side=560),
    "naclip": dict(short_side=560),
    "clearclip": dict(crop=224),
    "proxyclip": dict(short_side=448, crop=224),
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="cityscapes", root="data/cityscapes", split="val")
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
