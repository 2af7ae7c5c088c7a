"""First stage of zsseg on COCO-Stuff 164k: a prompt for the 156 seen classes.

  python -m ovseg_jax.main --config configs/zsseg/prompt_coco_stuff.py

Starts from CLIP ViT-B/16; convert it once and name its folder in `pretrained`. Only the prompt
trains, 8192 numbers, on 32 masked crops of each class; the configs of the second stage name the
folder of this run. Results vary with the seed: the authors advise several and take the best by the
accuracy on masked crops, `regions` in the result.
32 crops of 244 x 224 pixels per step (sic: width and height change places), 16000 steps.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import prompt


def get_config() -> ConfigDict:
    """The recipe."""
    config = prompt("coco_stuff_156_15_zsseg", per_class=32)
    config.train = common.train(batch_size=32, steps=16_000, eval_every=1000)
    return config
