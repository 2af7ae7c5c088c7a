"""ZegCLIP on Pascal Context, 50 seen (background among them) and 10 unseen classes: transductive.

  python -m ovseg_jax.main --config configs/zegclip/context_transductive.py

The labels are made once: ovseg prepare pascal_context.
Starts from the inductive run stopped at 20000 steps (weights only); pixels of unseen classes
are known to be unseen, which of them they show is guessed by the model itself.
Published (table 2 of the paper): 77.2 pAcc, 46.6 mIoU(S), 65.4 mIoU(U), 54.4 hIoU.
16 pictures of 512 pixels per step, 20000 steps.

The authors released neither this recipe nor its data files: the split is the usual one of the
literature, crop and box are those of the COCO-Stuff recipe, the length is an assumption.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.zegclip("transductive", prompt_tokens=10, seen_only=False)
    config.pretrained = "runs/zegclip_context_inductive"
    config.vocabulary.label_space = "context_50_10"
    config.vocabulary.templates = "zegclip15"
    config.data = ConfigDict(
        dict(
            train=dict(
                source=dict(
                    name="pascal_context", root="data/pascal_context", split="train", classes=60
                ),
                transforms=common.mmseg_transforms(),
            ),
            eval=dict(
                source=dict(
                    name="pascal_context", root="data/pascal_context", split="val", classes=60
                ),
                transforms=(),
            ),
        )
    )
    config.train = common.train(batch_size=16, steps=20000)
    return config
