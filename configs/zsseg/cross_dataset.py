"""zsseg trained on COCO-Stuff for other data sets, and its evaluation there.

  python -m ovseg_jax.main --config configs/zsseg/cross_dataset.py --workdir runs/zsseg_cross \
    --config.dtype=bfloat16
  python -m ovseg_jax.main --config configs/zsseg/cross_dataset.py:ade150 --mode eval \
    --workdir runs/zsseg_cross

The first line trains as `coco_stuff.py:vild`, twice as long; the second evaluates the same run by
the rules that the authors chose for a data set: ade150, ade847, cityscapes, context59, context459,
voc20, pas20b. Learned prompts did not carry over to other data sets, say the authors. All classes
count as unseen there. Batch 32, 120000 steps. Published mIoU (per cent; quoted from later papers):
Cityscapes 34.5, PC-59 47.7, ADE-150 20.5, ADE-847 7.0.
"""

from ml_collections import ConfigDict

from configs import common
from configs.zsseg.common import data, evaluation, segmenter

# Data set with the authors' words, weight of the ensemble, threshold of masks, short and long side.
RULES = {
    "coco_stuff": ("", 0.8, 0.5, 640, 2560),  # that of training
    "ade150": ("ade150", 0.5, 0.4, 512, 2048),
    "ade847": ("ade847", 0.7, 0.3, 512, 2048),
    "cityscapes": ("cityscapes", 0.4, 0.3, 1024, 2048),
    "context59": ("context59_zsseg", 0.4, 0.5, 512, 2048),
    "voc20": ("voc20_catseg", 0.4, 0.5, 512, 2048),  # CAT-Seg's are the same; no class is seen
    # The authors' code has no rules for these two; as PC-59.
    "context459": ("context459", 0.4, 0.5, 512, 2048),
    "pas20b": ("pas20b", 0.4, 0.5, 512, 2048),
}
DATASETS = tuple(RULES)


def get_config(dataset: str = "coco_stuff") -> ConfigDict:
    """Training on COCO-Stuff and evaluation on one data set."""
    if dataset not in DATASETS:
        raise ValueError(f"data set {dataset} is none of {', '.join(DATASETS)}")
    evaluated, weight, threshold, short_side, long_side = RULES[dataset]
    config = segmenter("coco_stuff_156_15_zsseg", "r101c", "vild", ensemble_weight=weight)
    config.system.mask_threshold = threshold
    config.data = data("coco_stuff_156_15_zsseg", "train", crop=640, max_size=2560, pictures="seen")
    config.train = common.train(batch_size=32, steps=120_000, eval_every=10_000)
    config.eval = evaluation(short_side, long_side)
    config.eval.dataset = evaluated
    return config
