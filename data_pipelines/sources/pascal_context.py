"""Pascal Context: every pixel of VOC 2010's pictures.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild",
2014.
"""

from pathlib import Path

import numpy as np

from data_pipelines.sources.labelled import LabelledImages, LabelTable, Pair
from data_pipelines.sources.layouts import choice, find_root, read_names

SPLITS = ("train", "val")
LABELS = {
    59: "SegmentationClassContext",
    60: "SegmentationClassContext",
    459: "SegmentationClassContext459",
}
VOID = 255
VOID_459 = 459
ARCHIVE = "VOCtrainval_03-May-2010.tar"


class PascalContextSource(LabelledImages):
    """Images as VOC 2010's archive unpacks them, labels as `ovseg prepare pascal_context` writes.

        root/JPEGImages/2008_000002.jpg
        root/SegmentationClassContext/2008_000002.png       0 background, 1..59 classes
        root/SegmentationClassContext459/2008_000002.png    16 bits, 0..458 classes, 459 nothing
        root/ImageSets/SegmentationContext/{train,val}.txt

    Folders and lists of the 59 classes are mmsegmentation's, so that its files can be read too.

    The annotations come without lists. These are VOC 2010's own, `ImageSets/Main`, restricted to
    annotated pictures: 4998 and 5105. Others report 4996 and 5104 (mmsegmentation, ZegCLIP), so
    that a figure may differ from a published one by what three pictures change.
    """

    def __init__(self, root: str, split: str = "val", classes: int = 59):
        """Reads the list of the split.

        Args:
          root: the folder VOC2010, or the one in which the archive was unpacked.
          split: 'train' (4998 images) or 'val' (5105).
          classes: 59 (background is 255, ignored), 60 (background is class 0) or 459 (459 is
            ignored; labels are int32).

        Raises:
          UserError: an unknown split or number of classes, a missing folder or list.
        """
        choice(split, SPLITS, "the split")
        choice(classes, LABELS, "the number of classes")
        folder = find_voc2010(root)
        names = read_names(list_path(folder, split), "make it with ovseg prepare pascal_context")
        pairs = [
            Pair(
                name,
                folder / "JPEGImages" / f"{name}.jpg",
                folder / LABELS[classes] / f"{name}.png",
            )
            for name in names
        ]
        super().__init__(pairs, label_table(classes))


def find_voc2010(root: str | Path) -> Path:
    """The folder VOC2010."""
    return find_root(root, "JPEGImages", ("VOC2010", "VOCdevkit/VOC2010"), ARCHIVE)


def list_path(folder: Path, split: str) -> Path:
    """The list of a split."""
    return folder / "ImageSets" / "SegmentationContext" / f"{split}.txt"


def label_table(classes: int) -> LabelTable:
    """Classes of the prepared values."""
    remedy = "Context's labels end at {}; make them anew with ovseg prepare pascal_context"
    if classes == 459:
        return LabelTable(np.arange(VOID_459 + 1, dtype=np.int32), remedy.format(VOID_459))
    indices = np.arange(60, dtype=np.int32)
    if classes == 59:
        indices = np.where(indices == 0, VOID, indices - 1)
    return LabelTable(indices, remedy.format(59))
