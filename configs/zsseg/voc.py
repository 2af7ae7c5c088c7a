"""zsseg on Pascal VOC 2012, 15 seen and 5 unseen classes (Xu et al., ECCV 2022).

  python -m ovseg_jax.main --config configs/zsseg/voc.py --config.dtype=bfloat16

After the colon stands the variant: with `learned` (the default) queries read the single template
and regions the prompt of `prompt_voc.py`; `single` has the template for both; `r50_learned` has
ResNet-50 in place of ResNet-101c; `self_training` is `learned` with all classes, on the labels that
`ovseg pseudo-labels runs/zsseg_voc data/voc2012_pseudo` writes.
Batch 16, published on 8 GPUs; 20000 steps. Published, `learned`: seen 83.5, unseen 72.5, harmonic
mean 77.5, pixel accuracy 90.0 (per cent); with self-training seen 79.2, unseen 78.1.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import data, evaluation, segmenter

PSEUDO_LABELS = "data/voc2012_pseudo"
VARIANTS = ("learned", "single", "r50_learned", "self_training")


def get_config(variant: str = "learned") -> ConfigDict:
    """The recipe of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant} is none of {', '.join(VARIANTS)}")
    learned, again = variant != "single", variant == "self_training"
    config = segmenter(
        "voc_15_5_zsseg",
        "r50" if variant.startswith("r50_") else "r101c",
        "own_regions" if learned else "single",
        ensemble_weight=0.7,
        prompt_run="runs/zsseg_prompt_voc" if learned else "",
        seen_only=not again,
    )
    config.data = data(
        "voc_15_5_zsseg",
        "trainaug",
        crop=512,
        max_size=2048,
        labels=PSEUDO_LABELS if again else "",
    )
    config.train = common.train(batch_size=16, steps=20_000, eval_every=5000)
    config.eval = evaluation(512, 2048)
    return config
