"""ADE20K with 150 classes: a twin."""

from pathlib import Path

import numpy as np

from data_pipelines.prepare.images import encode
from data_pipelines.prepare.scenes import draw_splits
from data_pipelines.sources.ade20k import CLASSES, FOLDERS
from ovseg_jax.files import atomic_write


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn examples for each split in the layout of the official archive."""
    folder = output / "ADEChallengeData2016"
    values = range(1, CLASSES + 1)
    for split, number, image, label in draw_splits([*FOLDERS], count, values, void=0):
        path = f"{FOLDERS[split]}/ADE_{split}_{number:08d}"
        atomic_write(folder / "images" / f"{path}.jpg", encode(image, ".jpg"))
        atomic_write(folder / "annotations" / f"{path}.png", encode(label.astype(np.uint8), ".png"))
    return f"{len(FOLDERS) * count} examples in {folder}"
