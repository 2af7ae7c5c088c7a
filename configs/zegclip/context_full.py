"""ZegCLIP on Pascal Context, 50 seen (background among them) and 10 unseen classes: full.

  python -m ovseg_jax.main --config configs/zegclip/context_full.py

The labels are made once: ovseg prepare pascal_context.
Starts from CLIP ViT-B/16; all classes have masks. The upper bound of the other settings.
No published figure.
16 pictures of 512 pixels per step, 40000 steps.

The authors released neither this recipe nor its data files: the split is the usual one of the
literature, crop and box are those of the COCO-Stuff recipe, the length is an assumption.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.zegclip("full", prompt_tokens=10, seen_only=False)
    config.pretrained = "models/clip_vit_b16"
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
    config.train = common.train(batch_size=16, steps=40000)
    return config
