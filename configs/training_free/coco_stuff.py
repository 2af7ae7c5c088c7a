"""Training-free methods on COCO-Stuff 164k, 171 classes, 5000 pictures of val2017.

  python -m ovseg_jax.main --config configs/training_free/coco_stuff.py:naclip

Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 4.4, maskclip 16.4, gem 23.7, sclip 22.77, clearclip 23.9, naclip 25.69 (23.3
without PAMR), proxyclip 26.5, maskclip_original 12.5, maskclip_original_rn50 10.2.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables, maskclip_original from its own paper.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = (*common.METHODS, *common.MASKCLIP_METHODS)
LABEL_SPACES = {
    "sclip": "coco_stuff171",
    "naclip": "coco_stuff171",
    "clearclip": "coco_stuff171",
    "proxyclip": "coco_stuff171",
    "maskclip": "coco_stuff171_maskclip",
}
CHANGES = {
    "sclip": dict(short_side=448),
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="coco_stuff", root="data/coco_stuff164k", split="val")
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
