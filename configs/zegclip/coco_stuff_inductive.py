"""ZegCLIP on COCO-Stuff 164k, 156 seen and 15 unseen classes: inductive.

  python -m ovseg_jax.main --config configs/zegclip/coco_stuff_inductive.py

Starts from CLIP ViT-B/16; convert it once and name its folder in `pretrained`.
Published (table 2 of the paper): 62.0 pAcc, 40.2 mIoU(S), 41.1 mIoU(U), 40.8 hIoU.
16 pictures of 512 pixels per step, 80000 steps.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.zegclip("inductive", prompt_tokens=100, seen_only=True)
    config.pretrained = "models/clip_vit_b16"
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
    config.train = common.train(batch_size=16, steps=80000)
    return config
