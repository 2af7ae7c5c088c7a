"""zsseg on the embedded world: masks of 56 classes, names for 14 others from the packaged CLIP.

  python -m ovseg_jax.main --config configs/shapes/zsseg_prompt.py
  python -m ovseg_jax.main --config configs/shapes/zsseg.py
  python -m ovseg_jax.main --config configs/shapes/zsseg.py:fixed

The first line learns the prompt that the second takes; `fixed` has CLIP's template and needs no
first stage. What came out stands in benchmarks/RESULTS.md.

Departures from the published recipe, besides the sizes:

* The backbone starts from random weights, so it trains at the full rate and not at a tenth.
* Matrices of the query decoder take Muon, all else AdamW, at ten times the published rate. Both
  divide by the size of the gradient, so to clip its norm at 0.01, which is below that of any step
  (20 to 60 here), would only weigh all steps alike; 1.0 is kept, as in the other recipes here.
* The class term weighs 4 and not 1: from random weights, masks are learned long before names.
* Pixels of unseen classes are left out of the mask losses. Here every pixel is labelled: as
  negatives they teach that nothing is to be proposed where the unseen ground is.
* Regions are enlarged to 64 pixels, at which the small CLIP tells them best, and the ensemble
  trusts queries and regions alike: in so few steps queries learn masks, but hardly names.
"""

from ml_collections import ConfigDict

from configs import common
from configs.shapes.clip import clip_sizes
from configs.shapes.zsseg_prompt import FULL_STOP, REGION_SIZE

PROMPTS = ("learned", "fixed")


def get_config(prompts: str = "learned") -> ConfigDict:
    """The recipe with the prompt of `zsseg_prompt.py`, or with the fixed template."""
    if prompts not in PROMPTS:
        raise ValueError(f"prompts {prompts} is none of {', '.join(PROMPTS)}")
    learned = prompts == "learned"
    config = common.base()
    config.system = ConfigDict(
        dict(
            name="zsseg",
            clip=clip_sizes(),
            maskformer=dict(
                backbone=dict(
                    layers=(1, 1, 2, 1),
                    stem="basic",
                    stem_width=32,
                    width=32,
                    out_width=64,
                    multi_grid=(),
                    dilation=2,  # or the coarsest map of a scene would have 3 x 3 positions
                ),
                pixel_decoder=dict(dim=64, mask_dim=64),
                layer=dict(dim=128, heads=4, hidden=256, dropout=0.0),
                predictor=dict(queries=20, decoder_layers=3),
            ),
            class_hidden=128,
            prefix=8 if learned else 0,
            suffix=0,
            full_stop=FULL_STOP,
            learn_prompt=False,
            query_prompts=0,
            label_weight=4.0,
            mask_weight=20.0,
            dice_weight=1.0,
            no_object_weight=0.1,
            ignore_unlabelled=True,
            backbone_rate=1.0,
            ensemble=True,
            ensemble_weight=0.5,
            mask_threshold=0.5,
            mask_expand=1.0,
            mask_fill="mean",
            region_size=REGION_SIZE,
        )
    )
    config.pretrained = "runs/shapes_zsseg_prompt" if learned else "shapes_clip"
    config.image = ConfigDict(dict(mean=common.CLIP_MEAN, std=common.CLIP_STD))
    config.vocabulary = ConfigDict(
        dict(
            label_space="shapes",
            templates="{}" if learned else "shapes",
            tokenizer="shapes_clip",
            train_subset="seen",
        )
    )
    config.data = ConfigDict(
        dict(
            train=dict(
                source=dict(name="shapes", split="masks", canvas=96, size=100_000),
                transforms=(
                    dict(name="flip"),
                    dict(name="present_classes", max_classes=5),
                    dict(name="select", keys=("image", "label", "classes")),
                ),
            ),
            eval=common.shapes_eval(),
        )
    )
    config.optimizer = common.muon(
        lr=1e-3,
        muon_lr=2e-3,
        pattern=r"^maskformer/predictor/.*kernel$",
        weight_decay=0.01,
        b2=0.98,
    )
    config.schedule = common.schedule("cosine", warmup_steps=50, warmup_ratio=0.01, min_lr=1e-5)
    config.train = common.train(batch_size=16, steps=900)
    config.train.checkpoint_every = 100
    config.eval = common.shapes_protocol(training_free=True)
    return config
