"""ADE20K with the 150 classes of the scene parsing benchmark.

Zhou et al., "Scene Parsing through ADE20K Dataset", 2017.
"""

from data_pipelines.sources.labelled import LabelledImages, LabelTable
from data_pipelines.sources.layouts import choice, find_root, pair_folders

CLASSES = 150
VOID = 255
FOLDERS = {"train": "training", "val": "validation"}
ARCHIVE = "ADEChallengeData2016.zip"


class ADE20KSource(LabelledImages):
    """Images and labels as the official archive unpacks them.

    root/images/validation/ADE_val_00000001.jpg
    root/annotations/validation/ADE_val_00000001.png    0 other, 1..150 classes
    """

    def __init__(self, root: str, split: str = "val"):
        """Lists the images of the split.

        Args:
          root: the folder ADEChallengeData2016, or the one in which the archive was unpacked.
          split: 'train' (20 210 images) or 'val' (2000). Labels are 0..149, 255 is ignored.

        Raises:
          UserError: an unknown split, a missing or empty folder.
        """
        part = FOLDERS[choice(split, FOLDERS, "the split")]
        folder = find_root(root, "annotations", ("ADEChallengeData2016",), ARCHIVE)
        images, labels = folder / "images" / part, folder / "annotations" / part
        pairs = pair_folders(images, ".jpg", labels, ".png", f"unpack {ARCHIVE} again")
        super().__init__(pairs, label_table())


def label_table() -> LabelTable:
    """Classes of the stored values."""
    classes = {value: value - 1 for value in range(1, CLASSES + 1)}
    remedy = f"ADE20K's labels are 0..{CLASSES}; take those of {ARCHIVE}"
    return LabelTable.of({0: VOID} | classes, remedy=remedy)
