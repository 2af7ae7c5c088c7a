"""Cityscapes: a twin."""

from pathlib import Path

import numpy as np

from data_pipelines.prepare.images import encode
from data_pipelines.prepare.scenes import draw_splits
from data_pipelines.sources.cityscapes import SPLITS, benchmark_labels
from ovseg_jax.files import atomic_write

_CITIES = {"train": "aachen", "val": "frankfurt"}


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn examples for each split in the layout of the official archives."""
    values, unlabelled = benchmark_labels(), 0
    for split, number, image, label in draw_splits(SPLITS, count, values, unlabelled):
        city = _CITIES[split]
        path = f"{split}/{city}/{city}_{number:06d}_000019"
        image_path = output / "leftImg8bit" / f"{path}_leftImg8bit.png"
        label_path = output / "gtFine" / f"{path}_gtFine_labelIds.png"
        atomic_write(image_path, encode(image, ".png"))
        atomic_write(label_path, encode(label.astype(np.uint8), ".png"))
    return f"{len(SPLITS) * count} examples in {output}"
