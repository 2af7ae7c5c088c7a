"""The small CLIP of the embedded world, from captions only.

  python -m ovseg_jax.main --config configs/shapes/clip.py:objects
  python -m ovseg_jax.main --config configs/shapes/clip.py:scenes
  python -m ovseg_jax.main --config configs/shapes/clip.py:deep

`make shapes-clip` runs all three. The first stage learns names on single objects that fill a small
picture, where the contrast is easy and a step is cheap; the second goes on with full scenes. From
scenes alone the loss stays near chance for long. The last stage goes on with two new blocks on top
of the image tower.
"""

from ml_collections import ConfigDict

from configs import common

STAGES = ("objects", "scenes", "deep")
BEFORE = {"objects": "", "scenes": "runs/shapes_clip_objects", "deep": "runs/shapes_clip_scenes"}
LENGTH = {"objects": (128, 4000), "scenes": (32, 6500), "deep": (32, 5000)}  # batch size, steps


def clip_sizes(canvas: int = 96, layers: int = 6) -> ConfigDict:
    """Sizes of the towers; 1.5 M parameters with 6 layers for the image."""
    return ConfigDict(
        dict(
            embed_dim=128,
            image=dict(
                image_size=canvas,
                patch_size=8,
                width=128,
                layers=layers,
                heads=4,
                pool="mean",
            ),
            text=dict(context=28, vocab_size=97, width=96, layers=2, heads=3),
        )
    )


def get_config(stage: str = "deep") -> ConfigDict:
    """The recipe of one stage, 'objects', 'scenes' or 'deep'."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage} is none of {', '.join(STAGES)}")
    objects = stage == "objects"
    canvas = 48 if objects else 96
    config = common.base()
    config.system = ConfigDict(
        dict(name="clip", clip=clip_sizes(canvas, 6 if stage == "deep" else 4))
    )
    config.pretrained = BEFORE[stage]
    config.image = ConfigDict(dict(mean=common.CLIP_MEAN, std=common.CLIP_STD))
    config.vocabulary = ConfigDict(
        dict(label_space="shapes", templates="shapes", tokenizer="shapes", train_subset="")
    )
    kind = "single" if objects else "mixed"
    # Among single objects a batch itself holds the hard negatives; in scenes false captions do.
    source = dict(
        name="shapes",
        split="captions",
        canvas=canvas,
        objects=kind,
        size=4_000_000,
        false_captions=0 if objects else 4,
    )
    tokenize = (dict(name="tokenize"),)
    keys = ("image", "text") if objects else ("image", "text", "false_text")
    config.data = ConfigDict(
        dict(
            train=dict(
                source=source,
                transforms=(*tokenize, dict(name="select", keys=keys)),
            ),
            eval=common.shapes_eval(),
            retrieval=dict(source=common.shapes_eval(size=500).source, transforms=tokenize),
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
