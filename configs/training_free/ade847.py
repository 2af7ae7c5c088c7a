"""Training-free methods on ADE20K's full set of 847 classes, 2000 pictures of the val split.

  python -m ovseg_jax.main --config configs/training_free/ade847.py:proxyclip

The labels are made once: ovseg prepare ade20k_full.
Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Label images have 16 bits, 65535 is ignored. A name with commas is one query. No published figure
is known to us.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = ("proxyclip", "proxyclip_dinov2")
LABEL_SPACES = {
    "proxyclip": "ade847_training_free",
}
CHANGES = {
    "proxyclip": dict(short_side=448),
}


def get_config(method: str = "proxyclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="ade20k_full", root="data/ade20k_full", split="val")
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
