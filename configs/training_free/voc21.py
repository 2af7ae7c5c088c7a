"""Training-free methods on PASCAL VOC 2012 with background, 21 classes, 1449 pictures.

  python -m ovseg_jax.main --config configs/training_free/voc21.py:naclip

Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 16.2, maskclip 38.8, gem 46.2 (by its authors), sclip 59.63, clearclip 51.8,
naclip 64.07 (58.9 without PAMR), proxyclip 61.3.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = common.METHODS
LABEL_SPACES = {
    "sclip": "voc21",
    "naclip": "voc21",
    "clearclip": "voc21_clearclip",
    "proxyclip": "voc21_proxyclip",
}
CHANGES = {
    "sclip": dict(logit_scale=65.0, threshold=0.1, area=0.1),
    "naclip": dict(crop=0, stride=0, threshold=0.1),
    "clearclip": dict(threshold=0.5),
    "proxyclip": dict(threshold=0.2),
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="voc", root="data/voc2012", split="val", background="first")
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
