"""ZegCLIP on PASCAL VOC 2012, 15 seen and 5 unseen classes: inductive.

  python -m ovseg_jax.main --config configs/zegclip/voc_inductive.py

SBD's labels are made once: ovseg prepare voc.
Starts from CLIP ViT-B/16; convert it once and name its folder in `pretrained`.
Published (table 2 of the paper): 94.6 pAcc, 91.9 mIoU(S), 77.8 mIoU(U), 84.3 hIoU.
16 pictures of 512 pixels per step, 20000 steps.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.zegclip("inductive", prompt_tokens=10, seen_only=True)
    config.pretrained = "models/clip_vit_b16"
    config.vocabulary.label_space = "voc_zegclip"
    config.vocabulary.templates = "zegclip_single"
    config.data = ConfigDict(
        dict(
            train=dict(
                source=dict(
                    name="voc", root="data/voc2012", split="trainaug", background="ignored"
                ),
                transforms=common.mmseg_transforms(),
            ),
            eval=dict(
                source=dict(name="voc", root="data/voc2012", split="val", background="ignored"),
                transforms=(),
            ),
        )
    )
    config.train = common.train(batch_size=16, steps=20000)
    return config
