"""Training-free methods on Pascal Context without background, 59 classes, 5105 pictures.

  python -m ovseg_jax.main --config configs/training_free/context59.py:naclip

The labels are made once: ovseg prepare pascal_context.
Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 9.2, maskclip 26.4, gem 35.9, sclip 34.46, clearclip 35.9, naclip 38.35 (35.2
without PAMR), proxyclip 39.1, maskclip_original 21.7, maskclip_original_rn50 18.5.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables, maskclip_original from its own paper.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = (*common.METHODS, *common.MASKCLIP_METHODS)
LABEL_SPACES = {
    "sclip": "pascal_context59",
    "naclip": "pascal_context59",
    "clearclip": "pascal_context59",
    "proxyclip": "pascal_context59",
    "maskclip": "pascal_context59_maskclip",
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="pascal_context", root="data/pascal_context", split="val", classes=59)
    return common.recipe(method, LABEL_SPACES[family], source)
