"""ZegCLIP on COCO-Stuff 164k, 156 seen and 15 unseen classes: transductive.

  python -m ovseg_jax.main --config configs/zegclip/coco_stuff_transductive.py

Starts from the inductive run stopped at 40000 steps (weights only); pixels of unseen classes
are known to be unseen, which of them they show is guessed by the model itself.
Published (table 2 of the paper): 69.2 pAcc, 40.7 mIoU(S), 59.9 mIoU(U), 48.5 hIoU.
16 pictures of 512 pixels per step, 40000 steps.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.zegclip("transductive", prompt_tokens=100, seen_only=False)
    config.pretrained = "runs/zegclip_coco_stuff_inductive"
    config.vocabulary.label_space = "coco_stuff_zegclip"
    config.vocabulary.templates = "zegclip15"
    config.data = ConfigDict(
        dict(
            train=dict(
                source=dict(name="coco_stuff", root="data/coco_stuff164k", split="train"),
                transforms=common.mmseg_transforms(),
            ),
            eval=dict(
                source=dict(name="coco_stuff", root="data/coco_stuff164k", split="val"),
                transforms=(),
            ),
        )
    )
    config.train = common.train(batch_size=16, steps=40000)
    return config
