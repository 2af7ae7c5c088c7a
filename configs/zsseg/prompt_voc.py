"""First stage of zsseg on Pascal VOC 2012: a prompt for the 15 seen classes.

  python -m ovseg_jax.main --config configs/zsseg/prompt_voc.py

As `prompt_coco_stuff.py`, on 128 masked crops of each class. 32 crops per step, 3200 steps.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import prompt


def get_config() -> ConfigDict:
    """The recipe."""
    config = prompt("voc_15_5_zsseg", per_class=128, train_split="trainaug")
    config.train = common.train(batch_size=32, steps=3200, eval_every=1000)
    return config
