"""First stage of zsseg on the embedded world: a prompt for the seen names.

  python -m ovseg_jax.main --config configs/shapes/zsseg_prompt.py

Only the prompt trains, on masked regions of seen classes. `configs/shapes/zsseg.py` names the
folder of this run. The accuracy on regions, of seen and unseen classes, stands under `regions` in
the result; it is measured as the second stage looks at regions, cut to their boxes and resized.
"""

from ml_collections import ConfigDict

from configs import common
from configs.shapes.clip import clip_sizes

FULL_STOP = 4  # id of '.' in the packaged CLIP's vocabulary
REGION_SIZE = 64  # at which the small CLIP tells regions best; its own pictures have 96 pixels


def regions(split: str, subset: str, size: int) -> ConfigDict:
    """Regions of drawn scenes."""
    name = "shapes_regions"
    return ConfigDict(dict(name=name, split=split, subset=subset, size=size, canvas=96))


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.base()
    config.system = ConfigDict(
        dict(
            name="prompt_learning",
            clip=clip_sizes(),
            prefix=8,
            suffix=0,
            fill=(0.0, 0.0, 0.0),  # the mean colour, as the second stage paints
            full_stop=FULL_STOP,
        )
    )
    config.pretrained = "shapes_clip"
    config.image = ConfigDict(dict(mean=common.CLIP_MEAN, std=common.CLIP_STD))
    config.vocabulary = ConfigDict(
        dict(label_space="shapes", templates="{}", tokenizer="shapes_clip", train_subset="seen")
    )
    resize = dict(name="resize", size=(REGION_SIZE, REGION_SIZE))
    select = dict(name="select", keys=("image", "label", "class_id"))
    config.data = ConfigDict(
        dict(
            train=dict(
                source=regions("masks", "seen", size=100_000),
                transforms=(dict(name="crop_to_class"), resize, dict(name="flip"), select),
            ),
            eval=common.shapes_eval(),
            regions=dict(
                source=regions("test", "all", size=2000),
                transforms=(dict(name="crop_to_class"), resize, select),
            ),
        )
    )
    config.optimizer = common.adamw(lr=2e-3, weight_decay=0.0)
    config.schedule = common.schedule("cosine", warmup_steps=20, min_lr=2e-5)
    config.train = common.train(batch_size=32, steps=400)
    config.eval = common.shapes_protocol(training_free=False)
    return config
