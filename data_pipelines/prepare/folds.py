"""Twins of the data sets that hold out classes by folds."""

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.prepare.scenes import draw_scene
from data_pipelines.sources.class_masks import pack_pairs
from ovseg_jax.files import atomic_write

# Writes a scene: split, index, picture, label uint8 -> the image as the lists name it.
Write = Callable[[str, int, np.ndarray, np.ndarray], str | int]


def draw_folds(
    count: int, folds: Sequence[Sequence[int]], write: Write
) -> dict[str, list[tuple[str | int, int]]]:
    """Draws scenes of every fold's classes, stored as class + 1, for training and evaluation.

    Args:
      count: scenes of each fold and split.
      folds: classes of each.
      write: called for each scene.

    Returns:
      The (image, class) pairs of 'train' and 'val'.
    """
    pairs = {"train": [], "val": []}
    numbers = itertools.count()
    for split, classes in itertools.product(pairs, folds):
        for index in itertools.islice(numbers, count):
            image, label = draw_scene(index, (0, *(k + 1 for k in classes)), None)
            name = write(split, index, image, label.astype(np.uint8))
            pairs[split] += [(name, int(value) - 1) for value in np.unique(label) if value]
    return pairs


def write_lists(path: Path, **lists: Sequence[tuple[str | int, int]]) -> None:
    """Writes the lists that a source takes for the published ones."""
    buffer = io.BytesIO()
    np.savez(buffer, **pack_pairs(lists))
    atomic_write(path, buffer.getvalue())
