"""Steps about the region of one class, by which zsseg learns its prompts.

Training takes `crop_to_class`, `random_resized_crop`, `flip`; tests `crop_to_class`, `cut_center`.
Examples are those of `data_pipelines.sources.class_masks`: `label` is 1 where the class is.
"""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.transforms.resize import Window
from data_pipelines.transforms.step import PIXELS, Example, Step
from ovseg_jax.errors import UserError

_CLASS = 1


@dataclasses.dataclass(frozen=True)
class CropToClass(Step):
    """Cuts image and label to the box around the class.

    Attributes:
      expand: new over old side of the box, about its centre.
    """

    expand: float = 1.0

    def apply(self, example: Example, drawn: Any) -> Example:
        """Cuts.

        Raises:
          UserError: no pixel of the label is 1.
        """
        mask = example["label"] == _CLASS
        if not mask.any():
            raise UserError(
                f"{example.get('path', 'an example')} has no pixel of the class that its list "
                "names; delete the list (*_label_count.json beside the labels) to have it made anew"
            )
        window = class_window(mask, self.expand)
        return example | {key: window.cut(example[key]) for key in PIXELS}


def class_window(mask: np.ndarray, expand: float = 1.0) -> Window:
    """The box around a mask bool [H, W], expanded, clipped and truncated to whole pixels.

    As in the reference a box that reaches the right or the lower border ends one pixel before it.
    """
    rows, columns = _extent(mask.any(1), expand), _extent(mask.any(0), expand)
    return Window(rows[0], columns[0], rows[1], columns[1])


def _extent(marks: np.ndarray, expand: float) -> tuple[int, int]:
    """First pixel and length along one axis."""
    present = np.flatnonzero(marks)
    length = int(present[-1]) + 1 - int(present[0])
    center, half = int(present[0]) + 0.5 * length, 0.5 * (length * expand)
    first, end = max(0, center - half), min(len(marks) - 1, center + half)
    return int(first), max(int(end - first), 1)


@dataclasses.dataclass(frozen=True)
class CutCenter(Step):
    """Cuts out the middle without resizing, and fills up around what is smaller.

    Attributes:
      size: height and width of the result.
      image_value: what the image is filled with.
      ignore_label: what the label is filled with.
    """

    size: tuple[int, int] = (224, 224)
    image_value: int = 0
    ignore_label: int = 255

    def apply(self, example: Example, drawn: Any) -> Example:
        """Cuts and fills image and label."""
        fill = {"image": self.image_value, "label": self.ignore_label}
        return example | {key: self._cut(example[key], fill[key]) for key in fill if key in example}

    def _cut(self, array: np.ndarray, value: int) -> np.ndarray:
        sides = list(zip(array.shape, self.size, strict=False))
        missing = [max(wanted - side, 0) for side, wanted in sides]
        around = [(n // 2, n - n // 2) for n in missing] + [(0, 0)] * (array.ndim - 2)
        # Halves are rounded to the even pixel, as torchvision does.
        top, left = (round(max(side - wanted, 0) / 2) for side, wanted in sides)
        return Window(top, left, *self.size).cut(np.pad(array, around, constant_values=value))
