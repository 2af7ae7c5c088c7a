"""The pictures of a data set that have some of its classes: what zsseg's segmenters train on.

For self-training other labels take the place of the data set's own.
"""

from pathlib import Path

import numpy as np

from data_pipelines.sources.class_regions import open_pairs
from data_pipelines.sources.labelled import LabelledImages, LabelTable, Pair
from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import LabelSpace

REJECTED = 255  # in written labels: pixels that do not count


class WithClassesSource(LabelledImages):
    """Pictures with a pixel of the seen classes, the unseen or any; see `LabelledImages`.

    Their labels keep all classes. Which classes a picture has is read off the data set's label
    once, see `class_regions`.
    """

    def __init__(self, dataset: str, root: str, split: str, subset: str = "all", labels: str = ""):
        """Lists the pictures.

        Args:
          dataset: its name in `data_pipelines.datasets`.
          root: where it lies.
          split: of it.
          subset: 'all', 'seen' or 'unseen' classes.
          labels: a folder with the labels to take, as `ovseg pseudo-labels` writes them: PNGs named
            after the pictures, with class indices, and 255 where pixels do not count.

        Raises:
          UserError: an unknown data set or split, one without label images, missing files, no
            picture of these classes.
        """
        source, space, found = open_pairs(dataset, root, split, subset)
        pairs = [source.pairs[index] for index in np.unique(found.images)]
        if labels:
            super().__init__(_relabelled(pairs, Path(labels)), _written(space))
        else:
            super().__init__(pairs, source.table, source.decode)


def _relabelled(pairs: list[Pair], labels: Path) -> list[Pair]:
    # One listing for all: to ask for 100 000 files one by one is slow on a network's disk.
    written = {path.relative_to(labels).as_posix() for path in labels.rglob("*.png")}
    missing = [pair.name for pair in pairs if f"{pair.name}.png" not in written]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} pictures have no label in {str(labels)!r}, first "
            f"{missing[0]}; let ovseg pseudo-labels run to its end with that folder"
        )
    return [pair._replace(label=labels / f"{pair.name}.png") for pair in pairs]


def _written(space: LabelSpace) -> LabelTable:
    """Classes of the values that `ovseg pseudo-labels` writes."""
    classes = {index: index for index in range(len(space))}
    remedy = (
        f"{space.name} has {len(space)} classes; write the labels anew with ovseg pseudo-labels"
    )
    return LabelTable.of(classes | {REJECTED: space.ignore_label}, remedy=remedy)
