"""Steps of the few-shot recipes (Fusioner, with the semantics of albumentations; LSeg).

Where a warp leaves nothing, pixels and labels are 0: black, and background that counts.
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

from data_pipelines.transforms import pixels
from data_pipelines.transforms.resize import resize_antialiased, resize_label
from data_pipelines.transforms.step import PIXELS, Example, Step, check_choice

# Fusioner's mean and standard deviation of pixels, RGB in 0..255. They are not CLIP's.
FUSIONER_PASCAL = ((116.127, 109.599, 100.8525), (30.1155, 30.3195, 34.119))
FUSIONER_COCO = ((118.575, 111.1035, 101.3115), (29.376, 29.4015, 34.476))


def resize_area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Means of the source pixels under each new one; OpenCV's, which is linear if a side grows."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


RESIZES = {"area": resize_area, "antialiased": resize_antialiased}


@dataclasses.dataclass(frozen=True)
class Resize(Step):
    """Resizes to a fixed size, whatever the ratio.

    Attributes:
      size: height and width.
      method: 'area' (Fusioner) or 'antialiased' (LSeg); the label takes the nearest pixel.
    """

    size: tuple[int, int] = (224, 224)
    method: str = "area"

    def __post_init__(self):
        """Raises UserError for an unknown method."""
        check_choice("resize", "method", self.method, RESIZES)

    def apply(self, example: Example, drawn: Any) -> Example:
        """Resizes image and label."""
        changed = {"image": RESIZES[self.method](example["image"], self.size)}
        if "label" in example:
            changed["label"] = resize_label(example["label"], self.size)
        return example | changed


_JITTERS = {
    "brightness": pixels.scale_pixels,
    "contrast": pixels.scale_contrast,
    "saturation": pixels.blend_with_grey,
    "hue": lambda image, turn: pixels.shift_hue(image, 180 * turn),
}


@dataclasses.dataclass(frozen=True)
class ColorJitter(Step):
    """Brightness, contrast, saturation and hue by random amounts in random order.

    Attributes:
      amount: largest distance of a factor from 1, and of the hue in full turns.
    """

    amount: float = 0.2

    def draw(self, rng: np.random.Generator, example: Example) -> tuple[tuple[str, float], ...]:
        """Names and amounts in the order of application."""
        names = [str(name) for name in rng.permutation(list(_JITTERS))]
        amounts = rng.uniform(-self.amount, self.amount, len(names))
        return tuple(
            (name, float(amount if name == "hue" else 1 + amount))
            for name, amount in zip(names, amounts, strict=True)
        )

    def apply(self, example: Example, drawn: tuple[tuple[str, float], ...]) -> Example:
        """Changes the image; every part rounds to 8 bits on its own."""
        image = example["image"]
        for name, amount in drawn:
            image = _JITTERS[name](image, amount)
        return example | {"image": image}


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Step):
    """Adds noise that is independent per pixel and channel.

    Attributes:
      variance: lower and upper bound, in squared levels of 0..255.
    """

    variance: tuple[float, float] = (10.0, 50.0)

    def draw(self, rng: np.random.Generator, example: Example) -> np.ndarray:
        """The noise, float32 [H, W, 3]."""
        deviation = np.float32(math.sqrt(rng.uniform(*self.variance)))
        return deviation * rng.standard_normal(example["image"].shape, np.float32)

    def apply(self, example: Example, drawn: np.ndarray) -> Example:
        """Adds, clips and truncates."""
        image = np.clip(example["image"] + drawn, 0, 255).astype(np.uint8)
        return example | {"image": image}


@dataclasses.dataclass(frozen=True)
class _Warp(Step):
    """An affine map of image (bilinear) and label (nearest)."""

    def apply(self, example: Example, drawn: np.ndarray) -> Example:
        """Warps.

        Args:
          example: what to warp.
          drawn: float64 [2, 3], from old to new (x, y, 1).
        """
        height, width = example["image"].shape[:2]
        flags = {"image": cv2.INTER_LINEAR, "label": cv2.INTER_NEAREST}
        return example | {
            key: cv2.warpAffine(example[key], drawn, (width, height), flags=flags[key])
            for key in PIXELS
            if key in example
        }


@dataclasses.dataclass(frozen=True)
class RandomAffine(_Warp):
    """Moves three points around the centre, each on its own.

    Stands in for the elastic transform of albumentations, whose displacements come on top of this
    map and are far below a pixel with Fusioner's settings.

    Attributes:
      shift: how far a point moves along each axis at most, pixels.
    """

    shift: float = 20.0

    def draw(self, rng: np.random.Generator, example: Example) -> np.ndarray:
        """The map."""
        height, width = example["image"].shape[:2]
        reach = min(height, width) // 3
        corners = np.array([[reach, reach], [reach, -reach], [-reach, -reach]], np.float32)
        before = corners + np.array([width // 2, height // 2], np.float32)
        moved = before + rng.uniform(-self.shift, self.shift, (3, 2)).astype(np.float32)
        return cv2.getAffineTransform(before, moved)


@dataclasses.dataclass(frozen=True)
class ShiftScaleRotate(_Warp):
    """Turns and scales about the centre, then shifts.

    Attributes:
      shift: largest shift, as a share of each side.
      scale: largest distance of the scale from 1.
      angle: largest angle in degrees.
    """

    shift: float = 0.1
    scale: float = 0.1
    angle: float = 10.0

    def draw(self, rng: np.random.Generator, example: Example) -> np.ndarray:
        """The map."""
        height, width = example["image"].shape[:2]
        angle = rng.uniform(-self.angle, self.angle)
        scale = 1 + rng.uniform(-self.scale, self.scale)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        matrix[:, 2] += rng.uniform(-self.shift, self.shift, 2) * (width, height)
        return matrix
