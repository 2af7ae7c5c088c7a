"""A twin of PASCAL-5i; its labels are prepared with VOC 2012."""

from pathlib import Path

import numpy as np

from data_pipelines.prepare.folds import draw_folds, write_lists
from data_pipelines.prepare.images import encode, palette_png
from data_pipelines.sources.layouts import write_names
from data_pipelines.sources.pascal5i import FOLDS
from ovseg_jax.files import atomic_write


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn pictures for each fold and split in VOC's layout, and their lists."""
    folder = output / "VOCdevkit" / "VOC2012"
    names = {"train": [], "val": []}

    def write(split: str, index: int, image: np.ndarray, label: np.ndarray) -> str:
        name = f"2007_{index + 1:06d}"
        names[split].append(name)
        atomic_write(folder / "JPEGImages" / f"{name}.jpg", encode(image, ".jpg"))
        atomic_write(folder / "SegmentationClass" / f"{name}.png", palette_png(label))
        return name

    pairs = draw_folds(count, FOLDS, write)
    for split, listed in names.items():
        write_names(folder / "ImageSets" / "Segmentation" / f"{split}.txt", listed)
    write_lists(
        folder / "pascal5i.npz",
        train_fusioner=pairs["train"],
        train_hsnet=pairs["train"],
        val=pairs["val"],
    )
    return f"{sum(map(len, names.values()))} pictures in {folder}"
