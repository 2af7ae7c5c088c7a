"""The small CLIP of the embedded world, from captions only.

  python -m ovseg_jax.main --config configs/shapes/clip.py:objects
  python -m ovseg_jax.main --config configs/shapes/clip.py:scenes

`make shapes-clip` runs both. The first stage learns names on single objects that fill a small
picture, where the contrast is easy and a step is cheap; from scenes alone the loss stays near
chance for long. The second goes on with full scenes, and contrasts the patches with the names that
the captions hold: a mean over the patches alone may spread what it knows over the whole picture,
and a segmenter then finds nothing local to stand on.
"""

from ml_collections import ConfigDict

from configs import common

STAGES = ("objects", "scenes")
LENGTH = {"objects": (128, 2500), "scenes": (32, 4000)}  # batch size, steps


def clip_sizes(canvas: int = 96) -> ConfigDict:
    """Sizes of the towers; 1.1 M parameters."""
    return ConfigDict(
        dict(
            embed_dim=128,
            image=dict(image_size=canvas, patch_size=8, width=128, layers=4, heads=4, pool="mean"),
            text=dict(context=28, vocab_size=97, width=96, layers=2, heads=3),
        )
    )


def get_config(stage: str = "scenes") -> ConfigDict:
    """The recipe of one stage, 'objects' or 'scenes'."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage} is none of {', '.join(STAGES)}")
    objects = stage == "objects"
    canvas = 48 if objects else 96
    config = common.base()
    config.system = ConfigDict(dict(name="clip", clip=clip_sizes(canvas)))
    config.pretrained = "" if objects else "runs/shapes_clip_objects"
    config.image = ConfigDict(dict(mean=common.CLIP_MEAN, std=common.CLIP_STD))
    config.vocabulary = ConfigDict(
        dict(label_space="shapes", templates="shapes", tokenizer="shapes", train_subset="")
    )
    source = dict(
        name="shapes",
        split="captions",
        canvas=canvas,
        objects="single" if objects else "mixed",
        size=4_000_000,
    )
    # Up to three things and two grounds; an object fills the small pictures, and so does its name.
    tokenize = dict(name="tokenize", max_entities=0 if objects else 5)
    keys = ("image", "text") if objects else ("image", "text", "entity_text")
    config.data = ConfigDict(
        dict(
            train=dict(
                source=source,
                transforms=(tokenize, dict(name="select", keys=keys)),
            ),
            eval=common.shapes_eval(),
            retrieval=dict(
                source=common.shapes_eval(size=500).source, transforms=(dict(name="tokenize"),)
            ),
            zero_shot=dict(
                source=dict(
                    name="shapes", split="test", canvas=canvas, objects="single", size=2000
                ),
                transforms=(),
            ),
        )
    )
    config.optimizer = common.muon(
        lr=3e-3 if objects else 2e-3,
        muon_lr=5e-3 if objects else 3e-3,
        pattern=r"blocks/.*/kernel$",
        weight_decay=0.1,
        b2=0.98,
    )
    config.schedule = common.schedule("cosine", warmup_steps=100, warmup_ratio=0.01, min_lr=4e-5)
    batch_size, steps = LENGTH[stage]
    config.train = common.train(batch_size, steps)
    config.eval = common.shapes_protocol(training_free=False)
    return config
