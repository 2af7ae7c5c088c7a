"""ZegCLIP on PASCAL VOC 2012, 15 seen and 5 unseen classes: transductive.

  python -m ovseg_jax.main --config configs/zegclip/voc_transductive.py

SBD's labels are made once: ovseg prepare voc.
Starts from the inductive run stopped at 10000 steps (weights only); pixels of unseen classes
are known to be unseen, which of them they show is guessed by the model itself.
Published (table 2 of the paper): 96.2 pAcc, 92.3 mIoU(S), 89.9 mIoU(U), 91.1 hIoU.
16 pictures of 512 pixels per step, 10000 steps.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.zegclip("transductive", prompt_tokens=10, seen_only=False)
    config.pretrained = "runs/zegclip_voc_inductive"
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
    config.train = common.train(batch_size=16, steps=10000)
    return config
