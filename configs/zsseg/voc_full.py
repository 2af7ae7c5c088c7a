"""zsseg on all 20 classes of Pascal VOC 2012.

  python -m ovseg_jax.main --config configs/zsseg/voc_full.py --config.dtype=bfloat16

As `voc.py` with the single template, but every class is seen; after the colon `r101c` or `r50`. See
`coco_stuff_full.py`. Batch 16, 20000 steps; no figure is published for it.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import data, evaluation, segmenter

BACKBONES = ("r101c", "r50")


def get_config(backbone: str = "r101c") -> ConfigDict:
    """The recipe."""
    if backbone not in BACKBONES:
        raise ValueError(f"backbone {backbone} is none of {', '.join(BACKBONES)}")
    config = segmenter("voc_15_5_zsseg", backbone, "single", ensemble_weight=0.7, seen_only=False)
    config.system.ensemble = False
    config.data = data("voc_15_5_zsseg", "trainaug", crop=512, max_size=2048)
    config.train = common.train(batch_size=16, steps=20_000, eval_every=5000)
    config.eval = evaluation(512, 2048)
    return config
