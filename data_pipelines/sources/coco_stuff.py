"""COCO-Stuff 164k, and COCO-Object, whose labels are made of the same files.

Caesar et al., "COCO-Stuff: Thing and Stuff Classes in Context", 2018.
"""

from pathlib import Path

from data_pipelines.sources.labelled import LabelledImages, LabelTable, Pair
from data_pipelines.sources.layouts import choice, first_folder
from ovseg_jax.errors import UserError

VOID = 255
# Stored values are the official ids less one; eleven of the 91 ids of things were never used.
GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
VALUES = tuple(value for value in range(182) if value not in GAPS)
THINGS = VALUES[:80]
SPLITS = ("train", "val")
CLASSES = ("all", "things")
LABEL_ARCHIVE = "stuffthingmaps_trainval2017.zip"


class CocoStuffSource(LabelledImages):
    """Images and label images as the official archives unpack them.

        root/val2017/000000000139.jpg                   or root/images/val2017
        root/stuffthingmaps/val2017/000000000139.png    or root/annotations/val2017, root/val2017

    Label images are grey, their values 0..181 the official ids 1..182 less one, 255 unlabelled.
    All images are kept, also those without a pixel of any class.
    """

    def __init__(self, root: str, split: str = "val", classes: str = "all"):
        """Lists the images of the split.

        Args:
          root: the folder in which the archives were unpacked.
          split: 'train' (118 287 images) or 'val' (5000).
          classes: 'all' (80 things, then 91 stuffs; unlabelled pixels are ignored) or 'things',
            COCO-Object: things are 1..80, everything else, unlabelled pixels too, is background, 0.

        Raises:
          UserError: an unknown split or choice of classes, a missing folder or label.
        """
        folder = f"{choice(split, SPLITS, 'the split')}2017"
        images = first_folder(root, (folder, f"images/{folder}"), "*.jpg", f"{folder}.zip")
        places = (f"stuffthingmaps/{folder}", f"annotations/{folder}", folder)
        labels = first_folder(root, places, "*.png", LABEL_ARCHIVE)
        super().__init__(_pairs(images, labels), label_table(classes))


def label_table(classes: str) -> LabelTable:
    """Classes of the stored values.

    Raises:
      UserError: an unknown choice of classes.
    """
    if choice(classes, CLASSES, "the choice of classes") == "all":
        table = {value: k for k, value in enumerate(VALUES)} | {VOID: VOID}
    else:
        table = dict.fromkeys((*VALUES, VOID), 0)
        table |= {value: k + 1 for k, value in enumerate(THINGS)}
    remedy = (
        f"COCO-Stuff's pixel maps hold {VOID} and 0..181 without {len(GAPS)} unused ids; take the "
        f"PNGs of {LABEL_ARCHIVE}, not converted ones"
    )
    return LabelTable.of(table, remedy=remedy)


def _pairs(images: Path, labels: Path) -> list[Pair]:
    # One listing for all: to ask for 118 287 files one by one is slow on a network's disk.
    labelled = {path.stem for path in labels.glob("*.png")}
    names = sorted(path.stem for path in images.glob("*.jpg"))
    missing = next((name for name in names if name not in labelled), None)
    if missing:
        raise UserError(
            f"the image {missing}.jpg has no label in {str(labels)!r}; unpack {LABEL_ARCHIVE} again"
        )
    return [Pair(name, images / f"{name}.jpg", labels / f"{name}.png") for name in names]
