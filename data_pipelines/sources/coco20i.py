"""COCO-20i: COCO 2014 in four folds of twenty held-out classes.

Nguyen and Todorovic, "Feature Weighting and Boosting for Few-Shot Segmentation", 2019; lists and
masks are those of Min et al., "Hypercorrelation Squeeze for Few-Shot Segmentation" (HSNet), 2021.
"""

from pathlib import Path

import numpy as np

from data_pipelines.sources.class_masks import (
    EPISODES,
    VOID,
    ClassMasks,
    ClassPairs,
    check_options,
    read_pairs,
    split_folds,
)
from data_pipelines.sources.labelled import LabelTable, Pair
from data_pipelines.sources.layouts import first_folder

CLASSES = 80
FOLDS = tuple(tuple(range(first, CLASSES, 4)) for first in range(4))
_FUSIONER_PAIRS = 1000


class Coco20iSource(ClassMasks):
    """(image, class) pairs of COCO 2014 with HSNet's label images.

        root/val2014/COCO_val2014_000000000042.jpg
        root/annotations/val2014/COCO_val2014_000000000042.png

    and the same for train2014. 'annotation' does for 'annotations', and a folder may lie in one of
    its own name (val2014/val2014), as Fusioner's code wants it.

    Classes are 0..79 in the order of COCO's ids; label images are grey and hold the class + 1, 0
    elsewhere. A fold trains on the pairs of the 60 other classes (95476, 133927, 141054, 141016)
    and is evaluated on 1000 pairs of its own twenty: Fusioner takes the first by image and class,
    LSeg draws them at random as HSNet does, with the support images left out.
    """

    def __init__(self, root: str, fold: int = 0, split: str = "val", lists: str = "fusioner"):
        """Reads the lists.

        Args:
          root: the folder with images and label images.
          fold: 0..3, the classes fold, fold + 4, … are held out.
          split: 'train' or 'val'.
          lists: whose, 'fusioner' or 'hsnet'; in training there is no difference.

        Raises:
          UserError: an unknown fold, split or list, or a missing folder.
        """
        pairs = choose_pairs(Path(root), fold, split, lists)
        part = f"{split}2014"
        images = first_folder(root, (part, f"{part}/{part}"), "*.jpg", f"{part}.zip")
        places = [f"{name}/{part}" for name in ("annotations", "annotation")]
        places += [f"{place}/{part}" for place in places]
        labels = first_folder(root, places, "*.png", "HSNet's COCO2014 annotations")
        files = []
        for image, k in zip(*pairs, strict=True):
            name = f"COCO_{part}_{image:012d}"
            example = f"{name}__{k + 1:02d}"
            # Text, because joining a hundred thousand paths takes seconds.
            files.append(Pair(example, f"{images}/{name}.jpg", f"{labels}/{name}.png"))
        classes = split_folds(FOLDS, fold, split)
        super().__init__(files, pairs.classes, pairs.classes + 1, label_table(lists), classes)


def label_table(lists: str) -> LabelTable:
    """Stored values stay, save 255: Fusioner ignores it, for HSNet it is background."""
    classes = {value: value for value in range(CLASSES + 1)}
    remedy = f"HSNet's label images hold 0..{CLASSES}; take those of COCO 2014"
    return LabelTable.of(classes | {VOID: VOID if lists == "fusioner" else 0}, remedy=remedy)


def choose_pairs(folder: Path, fold: int, split: str, lists: str) -> ClassPairs:
    """The examples that the arguments of `Coco20iSource` stand for."""
    check_options(fold, split, lists)
    pairs = read_pairs(folder, "coco20i", split)
    held_out = np.isin(pairs.classes, FOLDS[fold])
    if split == "train":
        return pairs.take(~held_out)
    pairs = pairs.take(held_out)
    if lists == "hsnet":
        return draw_episodes(pairs)
    return pairs.take(np.lexsort((pairs.classes, pairs.images))[:_FUSIONER_PAIRS])


def draw_episodes(pairs: ClassPairs) -> ClassPairs:
    """HSNet's 1000 random episodes of a fold without support images, drawn with seed 0.

    First the class, then one of its images in the order of the list; both by NumPy's legacy
    generator, for no other draws the same.
    """
    generator = np.random.RandomState(0)
    classes = np.unique(pairs.classes)
    listed = [np.flatnonzero(pairs.classes == k) for k in classes]
    drawn = []
    for _ in range(EPISODES):
        of_class = listed[generator.choice(len(classes), 1, replace=False)[0]]
        drawn.append(of_class[generator.choice(len(of_class), 1, replace=False)[0]])
    return pairs.take(np.asarray(drawn))
