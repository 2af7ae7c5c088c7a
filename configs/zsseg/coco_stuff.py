"""zsseg on COCO-Stuff 164k, 156 seen and 15 unseen classes (Xu et al., ECCV 2022).

  python -m ovseg_jax.main --config configs/zsseg/coco_stuff.py --config.dtype=bfloat16

After the colon stands the variant: `learned` (the default) reads the prompt of
`prompt_coco_stuff.py`, `single`, `vild` and `imagenet` fixed templates; `r50_…` has ResNet-50 in
place of ResNet-101c; `rn50`, `rn101`, `rn50x4`, `rn50x16` and `vit_b32` another CLIP, with the
single template; `self_training` is `learned` with all classes, on the labels that
`ovseg pseudo-labels runs/zsseg_coco_stuff data/coco_stuff164k_pseudo` writes. Converted weights lie
in models/r101c, models/r50 and models/clip_…, see README.
Batch 32, published on 8 GPUs; 60000 steps. Published, `learned`: seen 39.3, unseen 36.3, harmonic
mean 37.8, pixel accuracy 60.3 (per cent); with self-training 39.6, 43.6, 41.5, 63.8. The authors
report differences of several points between seeds.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import CLIPS, data, evaluation, segmenter

DATASET = "coco_stuff_156_15_zsseg"
PSEUDO_LABELS = "data/coco_stuff164k_pseudo"
PROMPT_RUN = "runs/zsseg_prompt_coco_stuff"
VARIANTS = (
    *("learned", "single", "vild", "imagenet"),
    *("r50_learned", "r50_single", "r50_vild", "r50_imagenet"),
    *("vit_b32", "rn50", "rn101", "rn50x4", "rn50x16"),
    "self_training",
)


def get_config(variant: str = "learned") -> ConfigDict:
    """The recipe of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant} is none of {', '.join(VARIANTS)}")
    again = variant == "self_training"
    prompts = "single" if variant in CLIPS else variant.removeprefix("r50_")
    prompts = "learned" if again else prompts
    config = segmenter(
        DATASET,
        "r50" if variant.startswith("r50_") else "r101c",
        prompts,
        ensemble_weight=0.8,
        clip_name=variant if variant in CLIPS else "vit_b16",
        prompt_run=PROMPT_RUN if prompts == "learned" else "",
        seen_only=not again,
    )
    config.data = data(
        DATASET,
        "train",
        crop=640,
        max_size=2560,
        pictures="all" if again else "seen",
        labels=PSEUDO_LABELS if again else "",
    )
    config.train = common.train(batch_size=32, steps=60_000, eval_every=5000)
    config.eval = evaluation(640, 2560)
    return config
