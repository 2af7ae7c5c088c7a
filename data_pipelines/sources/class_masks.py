"""Pictures in which one class is looked for, as few-shot and zero-shot folds list them."""

import itertools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.sources.labelled import LabelledImages, LabelTable, Pair, read_label
from data_pipelines.sources.layouts import choice
from ovseg_jax.errors import UserError

VOID = 255
EPISODES = 1000  # of an evaluation by HSNet's protocol
_FOLDS = 4
_SPLITS = ("train", "val")
LISTS = ("fusioner", "hsnet")
_PUBLISHED = Path(__file__).parents[1] / "splits"


class ClassMasks(LabelledImages):
    """Examples of one class each.

    They have what `LabelledImages` gives and `class_id` int32 [], the class that is looked for;
    `label` is uint8 [H, W]: 1 where that class is, 0 elsewhere, 255 where pixels do not count.

    Attributes:
      class_ids: int32 [N], what is looked for in each.
      fold: all classes that the split may look for, whether it has an example of them or not.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        class_ids: np.ndarray,
        marks: np.ndarray,
        table: LabelTable,
        fold: Sequence[int],
        decode: Callable[[Path | str], np.ndarray] = read_label,
    ):
        """Takes the files; nothing is decoded yet.

        Args:
          pairs: of each of the N examples.
          class_ids: int [N], what is looked for.
          marks: int [N], by which value of `table` it is known.
          table: of the stored labels.
          fold: all classes that the split may look for.
          decode: reads the stored values [H, W] of a label file.
        """
        super().__init__(pairs, table, decode)
        self.class_ids = np.asarray(class_ids, np.int32)
        self.fold = tuple(fold)
        self._marks = marks

    def __getitem__(self, index: int) -> dict:
        """Reads one image and the mask of its class; raises UserError as `LabelledImages`."""
        example = super().__getitem__(index)
        label = example["label"]
        mask = (label == self._marks[index]).astype(np.uint8)
        mask[label == VOID] = VOID
        return example | {"label": mask, "class_id": self.class_ids[index]}


def split_folds(folds: Sequence[Sequence[int]], fold: int, split: str) -> tuple[int, ...]:
    """The classes that a split may look for: in training those of the other folds."""
    held_out = set(folds[fold])
    everything = sorted(itertools.chain(*folds))
    return tuple(k for k in everything if (k in held_out) == (split != "train"))


class ClassPairs(NamedTuple):
    """Images, by name or number [N], and the class that is looked for in each, int32 [N]."""

    images: np.ndarray
    classes: np.ndarray

    def take(self, chosen: np.ndarray) -> "ClassPairs":
        """Those of the indices, or where the mask is true."""
        return ClassPairs(self.images[chosen], self.classes[chosen])


def check_options(fold: int, split: str, lists: str) -> None:
    """Checks what the sources with folds are asked for.

    Raises:
      UserError: an unknown fold, split or list.
    """
    choice(fold, range(_FOLDS), "the fold")
    choice(split, _SPLITS, "the split")
    choice(lists, LISTS, "the choice of lists")


def read_pairs(folder: Path, name: str, part: str) -> ClassPairs:
    """Reads one of the lists of a benchmark.

    The published ones are packaged; `name`.npz in the folder of the data takes their place (a twin
    has it). It holds ``<part>_images`` and ``<part>_classes`` for each list.

    Args:
      folder: of the data.
      name: of the benchmark.
      part: which list.

    Raises:
      UserError: the file in the folder is damaged.
    """
    own = folder / f"{name}.npz"
    try:
        with np.load(own if own.is_file() else _PUBLISHED / own.name) as file:
            return ClassPairs(file[f"{part}_images"], file[f"{part}_classes"].astype(np.int32))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read the lists {str(own)!r} ({error}); take the file away to use the published"
        ) from error


def pack_pairs(lists: Mapping[str, Sequence[tuple[str | int, int]]]) -> dict[str, np.ndarray]:
    """What the file of `read_pairs` holds, from (image, class) pairs."""
    arrays = {}
    for part, pairs in lists.items():
        images, classes = zip(*pairs, strict=True)
        arrays |= {f"{part}_images": np.asarray(images), f"{part}_classes": np.int8(classes)}
    return arrays
