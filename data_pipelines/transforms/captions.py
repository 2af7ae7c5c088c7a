"""Steps for pictures with captions or classes: the recipes of CLIP, GroupViT and OVSegmentor.

Training pictures of GroupViT take `random_resized_crop`, `flip`, `rand_augment`, `normalize` and
`random_erasing`; test pictures `center_crop`.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.transforms.resize import (
    Window,
    resize_antialiased,
    resize_image,
    resize_label,
    resize_nearest,
)
from data_pipelines.transforms.step import Example, Step, refuse_label
from ovseg_jax.errors import UserError
from ovseg_jax.pictures import resize_and_crop


def draw_window(
    rng: np.random.Generator,
    size: tuple[int, int],
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Window | None:
    """Draws a part of a picture; None if ten of them did not fit into it.

    Args:
      rng: the generator.
      size: height and width of the picture.
      area: bounds of the part's share of the picture.
      ratio: bounds of width / height, whose logarithm is uniform.
    """
    height, width = size
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        part = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < part[0] <= height and 0 < part[1] <= width:
            top = int(rng.integers(0, height - part[0] + 1))
            left = int(rng.integers(0, width - part[1] + 1))
            return Window(top, left, *part)
    return None


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Step):
    """A part of random area and ratio, resized to one size (Szegedy et al., 2014).

    Attributes:
      size: height and width of the result.
      area: bounds of the part's share of the picture.
      ratio: bounds of width / height.
      antialias: whether to resize as PIL does (timm, torchvision, detectron2) or as OpenCV does
        (albumentations).
    """

    size: tuple[int, int] = (224, 224)
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    antialias: bool = True

    def draw(self, rng: np.random.Generator, example: Example) -> Window:
        """The part; if none fits, the middle of the picture within the bounds of the ratio."""
        height, width = size = example["image"].shape[:2]
        window = draw_window(rng, size, self.area, self.ratio)
        if window is not None:
            return window
        middle = (
            min(height, round(width / self.ratio[0])),
            min(width, round(height * self.ratio[1])),
        )
        return Window((height - middle[0]) // 2, (width - middle[1]) // 2, *middle)

    def apply(self, example: Example, drawn: Window) -> Example:
        """Cuts and resizes image (bilinear) and label (nearest)."""
        image, label = (
            (resize_antialiased, resize_nearest) if self.antialias else (resize_image, resize_label)
        )
        changed = {"image": image(drawn.cut(example["image"]), self.size)}
        if "label" in example:
            changed["label"] = label(drawn.cut(example["label"]), self.size)
        return example | changed


@dataclasses.dataclass(frozen=True)
class CenterCrop(Step):
    """Resizes by the shorter side and cuts out the middle, for test pictures without labels.

    Attributes:
      size: side of the result.
      short_side: length of the shorter side before cutting.
      bicubic: whether to resize bicubically (CLIP) or bilinearly (GroupViT), antialiased.
    """

    size: int = 224
    short_side: int = 224
    bicubic: bool = True

    def apply(self, example: Example, drawn: Any) -> Example:
        """Changes the image.

        Raises:
          UserError: the example has a label.
        """
        refuse_label(example, "center_crop")
        method = Image.Resampling.BICUBIC if self.bicubic else Image.Resampling.BILINEAR
        picture = Image.fromarray(example["image"])
        return example | {"image": resize_and_crop(picture, self.size, self.short_side, method)}


@dataclasses.dataclass(frozen=True)
class ChooseCaption(Step):
    """Takes one of the picture's `captions` as its `caption`, another one each time.

    For training; without it the caption is the first, as evaluation wants it.
    """

    def draw(self, rng: np.random.Generator, example: Example) -> int:
        """Which.

        Raises:
          UserError: the source has no `captions`.
        """
        if "captions" not in example:
            raise UserError(
                "the transform 'choose_caption' finds no 'captions' in the example; leave it out "
                "where a picture has one caption"
            )
        return int(rng.integers(len(example["captions"])))

    def apply(self, example: Example, drawn: int) -> Example:
        """Sets `caption`."""
        return example | {"caption": example["captions"][drawn]}


class Patch(NamedTuple):
    """What `RandomErasing` puts where."""

    window: Window
    noise: np.ndarray


@dataclasses.dataclass(frozen=True)
class RandomErasing(Step):
    """Replaces a part of a normalised image by noise from N(0, 1) (Zhong et al., 2020).

    Attributes:
      probability: of a picture to be touched at all.
      area: bounds of the part's share of the picture.
      ratio: bounds of width / height.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def draw(self, rng: np.random.Generator, example: Example) -> Patch | None:
        """Whether, where and what."""
        if rng.random() >= self.probability:
            return None
        shape = example["image"].shape
        window = draw_window(rng, shape[:2], self.area, self.ratio)
        if window is None:
            return None
        noise_shape = (window.height, window.width, shape[2])
        return Patch(window, rng.standard_normal(noise_shape, np.float32))

    def apply(self, example: Example, drawn: Patch | None) -> Example:
        """Changes the image.

        Raises:
          UserError: the image is not normalised.
        """
        if example["image"].dtype != np.float32:
            raise UserError(
                "the transform 'random_erasing' needs a normalised image; put 'normalize' before it"
            )
        if drawn is None:
            return example
        image = example["image"].copy()
        drawn.window.cut(image)[:] = drawn.noise
        return example | {"image": image}
