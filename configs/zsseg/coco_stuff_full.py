"""zsseg on all 171 classes of COCO-Stuff 164k.

  python -m ovseg_jax.main --config configs/zsseg/coco_stuff_full.py --config.dtype=bfloat16

As `coco_stuff.py`, but every class is seen, so that queries alone name the masks; after the colon
`r101c` or `r50`. The authors train a MaskFormer without CLIP for this bound; here queries are
compared with names all the same.
Batch 32, 60000 steps; no figure is published for it.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import data, evaluation, segmenter

BACKBONES = ("r101c", "r50")


def get_config(backbone: str = "r101c") -> ConfigDict:
    """The recipe."""
    if backbone not in BACKBONES:
        raise ValueError(f"backbone {backbone} is none of {', '.join(BACKBONES)}")
    config = segmenter(
        "coco_stuff_156_15_zsseg", backbone, "single", ensemble_weight=0.8, seen_only=False
    )
    config.system.ensemble = False
    config.data = data("coco_stuff_156_15_zsseg", "train", crop=640, max_size=2560)
    config.train = common.train(batch_size=32, steps=60_000, eval_every=5000)
    config.eval = evaluation(640, 2560)
    return config
