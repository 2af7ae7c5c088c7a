"""Training-free methods on COCO-Object, 80 things and background, 5000 pictures of val2017.

  python -m ovseg_jax.main --config configs/training_free/coco_object.py:naclip

Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Published mIoU: clip 5.5, maskclip 20.6, sclip 33.52, clearclip 33.0, naclip 36.19 (33.2 without
PAMR), proxyclip 37.5.
From the repositories of SCLIP and NACLIP and the papers of the others; CLIP and MaskCLIP from
ResCLIP's and ClearCLIP's tables.
Labels are COCO-Stuff's with every stuff class and the unlabelled pixels made background (0) and
the things 1..80, so that no pixel is ignored.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = common.METHODS
LABEL_SPACES = {
    "sclip": "coco_object81",
    "naclip": "coco_object81",
    "clearclip": "coco_object81_clearclip",
    "proxyclip": "coco_object81_proxyclip",
}
CHANGES = {
    "sclip": dict(logit_scale=50.0, threshold=0.1),
    "naclip": dict(threshold=0.1),
    "clearclip": dict(threshold=0.4),
    "proxyclip": dict(threshold=0.25),
}


def get_config(method: str = "naclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="coco_stuff", root="data/coco_stuff164k", split="val", classes="things")
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
