"""Training-free methods on Pascal Context with background, 60 classes, 5105 pictures.

  python -m ovseg_jax.main --config configs/training_free/context60.py:naclip

The labels are made once: ovseg prepare pascal_context.
Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 7.7, maskclip 23.6, gem 32.6 (by its authors), sclip 31.74, clearclip 32.6,
naclip 34.99 (32.2 without PAMR), proxyclip 35.3.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = common.METHODS
LABEL_SPACES = {
    "sclip": "pascal_context60",
    "naclip": "pascal_context60",
    "clearclip": "pascal_context60",
    "proxyclip": "pascal_context60",
}
CHANGES = {
    "sclip": dict(logit_scale=50.0, threshold=0.1),
    "naclip": dict(threshold=0.1),
    "clearclip": dict(threshold=0.15),
    "proxyclip": dict(threshold=0.15),
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="pascal_context", root="data/pascal_context", split="val", classes=60)
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
