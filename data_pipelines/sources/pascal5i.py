"""PASCAL-5i: VOC 2012 in four folds of five held-out classes.

Shaban et al., "One-Shot Learning for Semantic Segmentation", 2017.
"""

from pathlib import Path

import numpy as np

from data_pipelines.sources.class_masks import (
    EPISODES,
    ClassMasks,
    ClassPairs,
    check_options,
    read_pairs,
    split_folds,
)
from data_pipelines.sources.labelled import Pair
from data_pipelines.sources.voc import find_voc, label_table, read_split
from ovseg_jax.errors import UserError

FOLDS = tuple(tuple(range(first, first + 5)) for first in range(0, 20, 5))


class Pascal5iSource(ClassMasks):
    """(image, class) pairs of the folder that `VOCSource` reads, SBD's labels included.

    Classes are 0..19 in VOC's order. A fold trains on the pairs of the 15 other classes and is
    evaluated on those of its own five. Void pixels are 255.

    | lists | train, by fold | val, by fold |
    |---|---|---|
    | fusioner: every class of every image | 12667, 11736, 9023, 13227 | 346, 451, 725, 346 |
    | hsnet: without small objects; LSeg's too | 11394, 10255, 7797, 11594 | 1000 each |

    Both evaluate the same list; HSNet's 1000 episodes go through it again and again.
    """

    def __init__(self, root: str, fold: int = 0, split: str = "val", lists: str = "fusioner"):
        """Reads the lists.

        Args:
          root: the folder VOC2012, or the one in which the archive was unpacked.
          fold: 0..3, the classes 5 fold .. 5 fold + 4 are held out.
          split: 'train' or 'val'.
          lists: whose, 'fusioner' or 'hsnet'.

        Raises:
          UserError: an unknown fold, split or list, a missing folder or SBD's labels.
        """
        folder = find_voc(root)
        pairs = choose_pairs(folder, fold, split, lists)
        labels = _find_labels(folder, pairs.images)
        files = [
            Pair(f"{image}__{k + 1:02d}", folder / "JPEGImages" / f"{image}.jpg", label)
            for image, k, label in zip(*pairs, labels, strict=True)
        ]
        classes = split_folds(FOLDS, fold, split)
        super().__init__(files, pairs.classes, pairs.classes + 1, label_table("first"), classes)


def choose_pairs(folder: Path, fold: int, split: str, lists: str) -> ClassPairs:
    """The examples that the arguments of `Pascal5iSource` stand for."""
    check_options(fold, split, lists)
    pairs = read_pairs(folder, "pascal5i", f"train_{lists}" if split == "train" else "val")
    held_out = np.isin(pairs.classes, FOLDS[fold])
    if split == "train":
        return pairs.take(~held_out)
    pairs = pairs.take(held_out)
    if lists == "hsnet":
        pairs = pairs.take(np.arange(EPISODES) % len(pairs.images))
    return pairs


def _find_labels(folder: Path, images: np.ndarray) -> list[Path]:
    """VOC's own label images where it has them, else SBD's."""
    voc = {name for split in ("train", "val") for name in read_split(folder, split)}
    sbd = folder / "SegmentationClassAug"
    if not sbd.is_dir() and not voc.issuperset(images):
        raise UserError(f"{str(sbd)!r} is missing; make SBD's labels with ovseg prepare voc")
    own = folder / "SegmentationClass"
    return [(own if image in voc else sbd) / f"{image}.png" for image in images]
