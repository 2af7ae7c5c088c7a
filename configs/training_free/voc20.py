"""Training-free methods on PASCAL VOC 2012 without background, 20 classes, 1449 pictures.

  python -m ovseg_jax.main --config configs/training_free/voc20.py:naclip

Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 41.8, maskclip 74.9, gem 79.9, sclip 81.54, clearclip 80.9, naclip 83.03 (79.7
without PAMR), proxyclip 80.3, maskclip_original 49.5, maskclip_original_rn50 41.5.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables, maskclip_original from its own paper.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = (*common.METHODS, *common.MASKCLIP_METHODS)
LABEL_SPACES = {
    "sclip": "voc20",
    "naclip": "voc20",
    "clearclip": "voc20_proxyclip",
    "proxyclip": "voc20_proxyclip",
    "maskclip": "voc20_maskclip",
}
CHANGES = {
    "naclip": dict(crop=0, stride=0),
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="voc", root="data/voc2012", split="val", background="ignored")
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
