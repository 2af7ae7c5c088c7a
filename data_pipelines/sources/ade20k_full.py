"""ADE20K's release of 2021 with 847 classes.

Zhou et al., "Semantic Understanding of Scenes through the ADE20K Dataset", 2019; the choice of
classes is that of Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic
Segmentation" (MaskFormer), 2021.
"""

from pathlib import Path

from data_pipelines.sources.ade20k import FOLDERS
from data_pipelines.sources.labelled import LabelledImages, LabelTable
from data_pipelines.sources.layouts import choice, pair_folders

CLASSES = 847
VOID = 65_535
IMAGES = "images_detectron2"
LABELS = "annotations_detectron2"


class ADE20KFullSource(LabelledImages):
    """Images and labels as `ovseg prepare ade20k_full` writes them, in MaskFormer's layout.

    root/images_detectron2/validation/ADE_val_00000001.jpg
    root/annotations_detectron2/validation/ADE_val_00000001.tif    16 bits, 0..846, 65535 other

    Their short side is 512 at most.
    """

    def __init__(self, root: str, split: str = "val"):
        """Lists the images of the split.

        Args:
          root: the folder with the two folders above.
          split: 'train' (25 574 images) or 'val' (2000). Labels are int32, 65535 is ignored.

        Raises:
          UserError: an unknown split, a missing or empty folder.
        """
        part = FOLDERS[choice(split, FOLDERS, "the split")]
        images, labels = Path(root) / IMAGES / part, Path(root) / LABELS / part
        remedy = "make them with ovseg prepare ade20k_full"
        super().__init__(pair_folders(images, ".jpg", labels, ".tif", remedy), label_table())


def label_table() -> LabelTable:
    """Classes of the prepared values."""
    classes = {value: value for value in (*range(CLASSES), VOID)}
    remedy = (
        f"the prepared labels are 0..{CLASSES - 1} and {VOID}; make them anew with ovseg prepare "
        "ade20k_full"
    )
    return LabelTable.of(classes, bits=16, remedy=remedy)
