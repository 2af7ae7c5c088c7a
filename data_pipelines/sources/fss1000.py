"""FSS-1000: a thousand classes of ten pictures each.

Li et al., "FSS-1000: A 1000-Class Dataset for Few-Shot Segmentation", 2020.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.sources.class_masks import ClassMasks
from data_pipelines.sources.labelled import LabelTable, Pair
from data_pipelines.sources.layouts import choice
from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import load_label_space

SPLITS = ("train", "val", "test")
PICTURES = 10
_THRESHOLD = 128


class FSS1000Source(ClassMasks):
    """Pictures and masks as the archive unpacks.

        root/ac_wall/1.jpg … 10.jpg
        root/ac_wall/1.png … 10.png     the object where its grey is 128 or more

    Classes are 0..999 in the order of the label space 'fss1000': those of the splits one after the
    other. A folder or picture that is not there is left out.
    """

    def __init__(self, root: str, split: str = "test"):
        """Lists the pictures of the split.

        Args:
          root: the folder with a folder for each class.
          split: 'train' (520 classes, 5200 pictures), 'val' or 'test' (240 and 2400 each).

        Raises:
          UserError: an unknown split, or no picture of it.
        """
        choice(split, SPLITS, "the split")
        pairs, classes = [], []
        for class_id, name in split_classes(split):
            for number in range(1, PICTURES + 1):
                path = Path(root) / name / f"{number}.jpg"
                if path.is_file():
                    pairs.append(Pair(f"{name}/{number}", path, path.with_suffix(".png")))
                    classes.append(class_id)
        if not pairs:
            raise UserError(
                f"{str(root)!r} has no picture of FSS-1000's split {split}, such as "
                f"{split_classes(split)[0][1]}/1.jpg; give the folder with the folders of classes"
            )
        table = LabelTable(np.repeat(np.int32([0, 1]), _THRESHOLD), "FSS-1000's masks are grey")
        fold = [class_id for class_id, _ in split_classes(split)]
        marks = np.ones(len(pairs), np.int32)
        super().__init__(pairs, classes, marks, table, fold, read_grey)


def split_classes(split: str) -> list[tuple[int, str]]:
    """Number and folder of each class of a split."""
    space = load_label_space("fss1000")
    first, end = space.extra["splits"][split]
    return list(enumerate(space.names))[first:end]


def read_grey(path: Path) -> np.ndarray:
    """Reads an image of any mode as grey, uint8 [H, W].

    Raises:
      UserError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except OSError as error:
        raise UserError(f"cannot read the mask {str(path)!r}; is it damaged?") from error
