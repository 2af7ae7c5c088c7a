"""Training-free methods on all 459 classes of Pascal Context, 5105 pictures.

  python -m ovseg_jax.main --config configs/training_free/context459.py:proxyclip

The labels are made once: ovseg prepare pascal_context.
Starts from CLIP ViT-B/16 (and DINO for ProxyCLIP); convert them once, see `pretrained`.
Label images have 16 bits, 459 is ignored. No published figure is known to us.
"""

from ml_collections import ConfigDict

from configs.training_free import common

METHODS = ("proxyclip", "proxyclip_dinov2")
LABEL_SPACES = {
    "proxyclip": "pascal_context459_proxyclip",
}
CHANGES = {
    "proxyclip": dict(short_side=448),
}


def get_config(method: str = "proxyclip") -> ConfigDict:
    """The recipe of one method."""
    family = common.family(method, METHODS)
    source = dict(name="pascal_context", root="data/pascal_context", split="val", classes=459)
    return common.recipe(method, LABEL_SPACES[family], source, **CHANGES.get(family, {}))
