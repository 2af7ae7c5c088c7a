"""A twin of COCO-20i."""

from pathlib import Path

import numpy as np

from data_pipelines.prepare.folds import draw_folds, write_lists
from data_pipelines.prepare.images import encode
from data_pipelines.sources.coco20i import FOLDS
from ovseg_jax.files import atomic_write


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn pictures for each fold and split in HSNet's layout, and their lists."""

    def write(split: str, index: int, image: np.ndarray, label: np.ndarray) -> int:
        name = f"COCO_{split}2014_{index + 1:012d}"
        labels = output / "annotations" / f"{split}2014"
        atomic_write(output / f"{split}2014" / f"{name}.jpg", encode(image, ".jpg"))
        atomic_write(labels / f"{name}.png", encode(label, ".png"))
        return index + 1

    write_lists(output / "coco20i.npz", **draw_folds(count, FOLDS, write))
    return f"{2 * len(FOLDS) * count} pictures in {output}"
