"""ZegCLIP on the embedded world: the main job of `make demo`.

  python -m ovseg_jax.main --config configs/shapes/zegclip.py
  python -m ovseg_jax.main --config configs/shapes/zegclip.py --mode eval
  python -m ovseg_jax.main --config configs/shapes/zegclip.py:transductive
  python -m ovseg_jax.main --config configs/shapes/zegclip.py:full

The packaged CLIP has seen captions only. Masks of 51 things and 5 stuffs train the segmenter; 13
things and one stuff are evaluated without ever having had a mask. Two departures from the published
recipe: in the inductive setting, pixels of unseen classes are left out of the loss, because here
every pixel is labelled and as negatives they would teach that unseen things are background; and the
unit-length inputs of the small decoder are scaled by the root of their width, or it learns slowly.
"""

from ml_collections import ConfigDict

from configs import common
from configs.shapes.clip import clip_sizes

SETTINGS = ("inductive", "transductive", "full", "no_descriptor")


def get_config(setting: str = "inductive") -> ConfigDict:
    """The recipe of a setting; 'no_descriptor' is the inductive one without section 3.3."""
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting} is none of {', '.join(SETTINGS)}")
    inductive = setting in ("inductive", "no_descriptor")
    config = common.base()
    config.system = ConfigDict(
        dict(
            name="zegclip",
            clip=clip_sizes(),
            setting="inductive" if inductive else setting,
            prompt_tokens=8,
            prompt_depth=3,
            decoder_layers=3,
            decoder_heads=4,
            decoder_hidden=512,
            relationship_descriptor=setting != "no_descriptor",
            input_scale=11.3,
            dropout=0.1,
            mask_weight=20.0,
            dice_weight=1.0,
            ignore_unlabelled=inductive,
            # Other than in the published recipes unlabelled pixels are left out of the loss, and
            # names without masks never pushed down: a bonus for the others balances that.
            calibration=-0.1 if inductive else 0.0,
            class_chunk=32,
        )
    )
    # As published, self-training goes on from an inductive run.
    config.pretrained = "runs/shapes_zegclip" if setting == "transductive" else "shapes_clip"
    config.image = ConfigDict(dict(mean=common.CLIP_MEAN, std=common.CLIP_STD))
    config.vocabulary = ConfigDict(
        dict(
            label_space="shapes",
            templates="shapes",
            tokenizer="shapes_clip",
            train_subset="seen" if inductive else "all",
        )
    )
    config.data = ConfigDict(
        dict(
            train=dict(
                source=dict(name="shapes", split="masks", canvas=96, size=100_000),
                transforms=(dict(name="flip"), dict(name="select", keys=("image", "label"))),
            ),
            eval=common.shapes_eval(),
        )
    )
    config.optimizer = common.muon(
        lr=2e-3, muon_lr=3e-3, pattern=r"^(prompts|head)/.*kernel$", weight_decay=0.01, b2=0.98
    )
    config.schedule = common.schedule("cosine", warmup_steps=30, warmup_ratio=0.01, min_lr=2e-5)
    # A transductive run has the steps of its inductive one besides; the full run gets as many.
    config.train = common.train(batch_size=16, steps=1600 if setting == "full" else 800)
    config.train.checkpoint_every = 100
    config.eval = common.shapes_protocol(training_free=True)
    return config
