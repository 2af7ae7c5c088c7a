"""Steps of detectron2's mappers, as MaskFormer and its successors set them up.

The recipe of MaskFormer, zsseg and SAN is `resize_crop`, `color_ssd`, `flip`, `pad` with the image
value 128 (to the mapper's size divisibility) and `present_classes`; FC-CLIP's is `flip`,
`large_scale_jitter`, `pad`, `present_classes`. Test pictures take `resize_shortest_edge`.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.transforms.mmseg import Photometric, RandomCrop
from data_pipelines.transforms.resize import Window, resize_antialiased, resize_nearest
from data_pipelines.transforms.step import Example, Step, check_choice
from ovseg_jax.errors import UserError
from ovseg_jax.pictures import shortest_edge_size


def resize_label(label: np.ndarray, size: tuple[int, int], rule: str = "floor") -> np.ndarray:
    """Nearest neighbour, by the rule 'floor' or 'half_pixel' of `ResizeShortestEdge`."""
    if rule == "floor":
        return resize_nearest(label, size)
    return np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))


LABEL_RULES = ("floor", "half_pixel", "keep")


@dataclasses.dataclass(frozen=True)
class ResizeShortestEdge(Step):
    """Resizes by the shorter side.

    Attributes:
      short_edges: lengths to choose from, each as likely.
      max_size: largest length of the longer side.
      label_rule: 'floor' takes the nearest label as the mappers that turn labels to float do
        (MaskFormer); 'half_pixel' as detectron2 does for 8-bit labels; 'keep' leaves the label at
        the size in which it is scored.
    """

    short_edges: tuple[int, ...] = (640,)
    max_size: int = 2560
    label_rule: str = "floor"

    def __post_init__(self):
        """Raises UserError for an unknown rule."""
        check_choice("resize_shortest_edge", "label_rule", self.label_rule, LABEL_RULES)

    def draw(self, rng: np.random.Generator, example: Example) -> int:
        """A short edge."""
        return int(rng.choice(self.short_edges))

    def apply(self, example: Example, drawn: int) -> Example:
        """Resizes the image (bilinear, antialiased) and, if asked, the label."""
        size = shortest_edge_size(example["image"].shape[:2], drawn, self.max_size)
        changed = {"image": resize_antialiased(example["image"], size)}
        if "label" in example and self.label_rule != "keep":
            changed["label"] = resize_label(example["label"], size, self.label_rule)
        return example | changed


class Cutout(NamedTuple):
    """What is kept of a resized picture.

    Attributes:
      size: of the whole picture after resizing.
      window: the part that is kept.
    """

    size: tuple[int, int]
    window: Window


@dataclasses.dataclass(frozen=True)
class _ResizedCrop(Step):
    """Resizes and crops at once: pixels that the crop drops are not computed."""

    def apply(self, example: Example, drawn: Cutout) -> Example:
        """Makes the cutout of the image (bilinear, antialiased) and of the label (nearest)."""
        changed = {"image": resize_antialiased(example["image"], *drawn)}
        if "label" in example:
            changed["label"] = resize_nearest(example["label"], *drawn)
        return example | changed


@dataclasses.dataclass(frozen=True)
class ResizeCrop(_ResizedCrop):
    """Resizes by the shorter side, then crops where no category fills too much.

    Attributes:
      short_edges: as `ResizeShortestEdge`.
      max_size: as `ResizeShortestEdge`.
      size: height and width of the crop; a smaller picture keeps its side.
      single_category_max_area: largest share of the crop that one category may have; with 1 no
        crop is rejected. Of ten crops the last is taken whatever it shows.
      ignore_label: label that is no category.
    """

    short_edges: tuple[int, ...] = tuple(range(320, 961, 64))
    max_size: int = 2560
    size: tuple[int, int] = (640, 640)
    single_category_max_area: float = 1.0
    ignore_label: int = 255

    def draw(self, rng: np.random.Generator, example: Example) -> Cutout:
        """A short edge, then corners until one is accepted."""
        before = example["image"].shape[:2]
        size = shortest_edge_size(before, int(rng.choice(self.short_edges)), self.max_size)
        crop = RandomCrop(self.size, self.single_category_max_area, self.ignore_label, attempts=10)
        label = None
        if self.single_category_max_area < 1 and "label" in example:
            label = resize_nearest(example["label"], size)
        return Cutout(size, crop.window(rng, size, label))


@dataclasses.dataclass(frozen=True)
class LargeScaleJitter(_ResizedCrop):
    """Fits the picture into a box of random scale, then crops what is larger than the box.

    A smaller picture is left for `pad` to fill up (Ghiasi et al., 2021; detectron2's `ResizeScale`
    and `FixedSizeCrop`).

    Attributes:
      size: height and width of the box at scale 1, and of the crop.
      scale: lower and upper bound.
    """

    size: tuple[int, int] = (1024, 1024)
    scale: tuple[float, float] = (0.1, 2.0)

    def draw(self, rng: np.random.Generator, example: Example) -> Cutout:
        """A scale, then one number that places the crop along both axes, as in the reference."""
        before = np.array(example["image"].shape[:2])
        factor = np.min(np.multiply(self.size, rng.uniform(*self.scale)) / before)
        size = np.maximum(np.round(before * factor).astype(int), 1)
        corner = np.round(np.maximum(size - self.size, 0) * rng.uniform(0.0, 1.0)).astype(int)
        window = Window(*corner.tolist(), *np.minimum(size, self.size).tolist())
        return Cutout(tuple(size.tolist()), window)


@dataclasses.dataclass(frozen=True)
class ColorSSD(Photometric):
    """detectron2's form of `Photometric`, whose largest shift of hue is drawn too."""

    hue: tuple[int, int] = (-18, 19)


@dataclasses.dataclass(frozen=True)
class PresentClasses(Step):
    """Lists the classes of the label: `classes` int32 [K], ascending, -1 where rows are left over.

    Their masks, MaskFormer's targets, are made of the label on the device (`ops.masks`): they
    would be most of a batch.

    Attributes:
      max_classes: K.
      ignore_label: label that is no class.
    """

    max_classes: int = 64
    ignore_label: int = 255

    def apply(self, example: Example, drawn: Any) -> Example:
        """Adds the classes; the label stays.

        Raises:
          UserError: the label has more classes than `max_classes`.
        """
        present = np.flatnonzero(np.bincount(example["label"].ravel()))
        present = present[present != self.ignore_label]
        if len(present) > self.max_classes:
            raise UserError(
                f"a label has {len(present)} classes, more than max_classes={self.max_classes} of "
                "the transform 'present_classes'; set that to the classes of the data set"
            )
        classes = np.full(self.max_classes, -1, np.int32)
        classes[: len(present)] = present
        return example | {"classes": classes}
