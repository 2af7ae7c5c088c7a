"""Pascal VOC 2012, with the labels of SBD for training.

Everingham et al., "The Pascal Visual Object Classes Challenge", 2010; Hariharan et al., "Semantic
Contours from Inverse Detectors", 2011.
"""

from pathlib import Path

from data_pipelines.sources.labelled import LabelledImages, LabelTable, Pair
from data_pipelines.sources.layouts import choice, find_root, read_names

CLASSES = 20
VOID = 255
SPLITS = ("train", "trainaug", "val")
BACKGROUNDS = ("ignored", "first", "last")
ARCHIVE = "VOCtrainval_11-May-2012.tar"


class VOCSource(LabelledImages):
    """Images and palette labels as the official archive unpacks them.

        root/JPEGImages/2007_000032.jpg
        root/SegmentationClass/2007_000032.png      0 background, 1..20 classes, 255 void
        root/ImageSets/Segmentation/{train,val}.txt

    and, for the split 'trainaug' (10 582 images), what `ovseg prepare voc` makes of SBD:

        root/SegmentationClassAug/2008_000002.png
        root/ImageSets/Segmentation/aug.txt
    """

    def __init__(self, root: str, split: str = "val", background: str = "ignored"):
        """Reads the list of the split.

        Args:
          root: the folder VOC2012, or the one in which the archive was unpacked.
          split: 'train' (1464 images), 'trainaug' (those and SBD's) or 'val' (1449).
          background: 'ignored' (20 classes), 'first' (it is class 0 of 21) or 'last' (class 20).

        Raises:
          UserError: an unknown split, a missing folder or list.
        """
        choice(split, SPLITS, "the split")
        folder = find_voc(root)
        names = {"SegmentationClass": read_split(folder, "train" if split == "trainaug" else split)}
        if split == "trainaug":
            names["SegmentationClassAug"] = read_split(folder, "aug")
        pairs = [
            Pair(name, folder / "JPEGImages" / f"{name}.jpg", folder / labels / f"{name}.png")
            for labels, listed in names.items()
            for name in listed
        ]
        super().__init__(pairs, label_table(background))


def find_voc(root: str | Path) -> Path:
    """The folder VOC2012."""
    return find_root(root, "JPEGImages", ("VOC2012", "VOCdevkit/VOC2012"), ARCHIVE)


def label_table(background: str) -> LabelTable:
    """Classes of the stored values by what becomes of the background.

    Raises:
      UserError: an unknown rule.
    """
    first = {"ignored": VOID, "first": 0, "last": CLASSES}
    choice(background, BACKGROUNDS, "the rule for the background")
    shift = 0 if background == "first" else -1
    classes = {value: value + shift for value in range(1, CLASSES + 1)}
    remedy = f"VOC's labels are 0..{CLASSES} and {VOID}; take the palette PNGs of the archive"
    return LabelTable.of({0: first[background], VOID: VOID} | classes, remedy=remedy)


def read_split(folder: Path, split: str) -> list[str]:
    """Names of the images in a list of the folder VOC2012: 'train', 'val', or 'aug' for SBD's.

    Raises:
      UserError: the list is missing or empty.
    """
    remedy = "make it with ovseg prepare voc" if split == "aug" else f"unpack {ARCHIVE} again"
    return read_names(folder / "ImageSets" / "Segmentation" / f"{split}.txt", remedy)
