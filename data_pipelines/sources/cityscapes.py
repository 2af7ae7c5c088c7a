"""Cityscapes with the 19 classes of its benchmark.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", 2016.
"""

from data_pipelines.sources.labelled import LabelledImages, LabelTable
from data_pipelines.sources.layouts import choice, find_root, pair_folders
from ovseg_jax.text.label_space import load_label_space

SPLITS = ("train", "val")
LABELS = range(34)  # stored values
VOID = 255
ARCHIVES = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"


class CityscapesSource(LabelledImages):
    """Images and fine labels as the official archives unpack them.

    root/leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png
    root/gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png    0..33

    Stored are the ids of 34 labels, of which 19 count (`source_ids` of the label space
    cityscapes19); a licence plate, whose id is -1, is 255 if it is stored at all.
    """

    def __init__(self, root: str, split: str = "val"):
        """Lists the images of the split.

        Args:
          root: the folder in which both archives were unpacked.
          split: 'train' (2975 images) or 'val' (500). Labels are the benchmark's train ids
            0..18, 255 is ignored.

        Raises:
          UserError: an unknown split, a missing or empty folder.
        """
        choice(split, SPLITS, "the split")
        folder = find_root(root, "gtFine", (), ARCHIVES)
        pairs = pair_folders(
            folder / "leftImg8bit" / split,
            "_leftImg8bit.png",
            folder / "gtFine" / split,
            "_gtFine_labelIds.png",
            f"unpack {ARCHIVES} again",
        )
        super().__init__(pairs, label_table())


def benchmark_labels() -> list[int]:
    """The stored label id of each of the 19 classes."""
    return load_label_space("cityscapes19").extra["source_ids"]


def label_table() -> LabelTable:
    """Train ids of the stored label ids."""
    classes = {value: index for index, value in enumerate(benchmark_labels())}
    remedy = f"Cityscapes' label ids are 0..{LABELS[-1]}; take *_gtFine_labelIds.png"
    return LabelTable.of(dict.fromkeys((*LABELS, VOID), VOID) | classes, remedy=remedy)
