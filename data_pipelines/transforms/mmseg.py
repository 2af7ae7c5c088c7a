"""Steps of mmsegmentation's recipes, with mmcv's resizing."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.transforms.pixels import scale_pixels, scale_saturation, shift_hue
from data_pipelines.transforms.resize import (
    Window,
    fit_size,
    resize_image,
    resize_label,
    short_side_size,
)
from data_pipelines.transforms.step import PIXELS, Example, Step


@dataclasses.dataclass(frozen=True)
class ResizeRatio(Step):
    """Keeps the ratio and fits image and label into a box of random size.

    Attributes:
      box: long and short side at ratio 1, pixels.
      ratio_range: lower and upper bound of the ratio.
    """

    box: tuple[int, int] = (2048, 512)
    ratio_range: tuple[float, float] = (0.5, 2.0)

    def draw(self, rng: np.random.Generator, example: Example) -> float:
        """A ratio."""
        low, high = self.ratio_range
        return rng.random() * (high - low) + low

    def apply(self, example: Example, drawn: float) -> Example:
        """Resizes image (bilinear) and label (nearest)."""
        box = tuple(int(side * drawn) for side in self.box)
        size = fit_size(example["image"].shape[:2], box)
        changed = {"image": resize_image(example["image"], size)}
        if "label" in example:
            changed["label"] = resize_label(example["label"], size)
        return example | changed


@dataclasses.dataclass(frozen=True)
class ResizeShortSide(Step):
    """Test-time resizing of the image; the label keeps its size, in which it is scored."""

    short_side: int = 512

    def apply(self, example: Example, drawn: Any) -> Example:
        """Resizes the image only."""
        size = short_side_size(example["image"].shape[:2], self.short_side)
        return example | {"image": resize_image(example["image"], size)}


@dataclasses.dataclass(frozen=True)
class RandomCrop(Step):
    """A crop in which, if the attempts allow, no class fills nearly everything.

    Attributes:
      size: height and width; a smaller image keeps its side.
      cat_max_ratio: a crop is accepted if it has two classes or more and the most frequent one has
        less than this share of its pixels (ignored ones apart). 1 accepts every crop.
      ignore_label: label that is no class.
      attempts: how many crops are drawn at most; the last one is taken whatever it shows.
    """

    size: tuple[int, int] = (512, 512)
    cat_max_ratio: float = 0.75
    ignore_label: int = 255
    attempts: int = 11

    def draw(self, rng: np.random.Generator, example: Example) -> Window:
        """Where to crop."""
        return self.window(rng, example["image"].shape[:2], example.get("label"))

    def apply(self, example: Example, drawn: Window) -> Example:
        """Cuts image and label."""
        return example | {key: drawn.cut(example[key]) for key in PIXELS if key in example}

    def window(
        self, rng: np.random.Generator, size: tuple[int, int], label: np.ndarray | None = None
    ) -> Window:
        """Draws where to crop a picture of a size; without a label every crop is accepted."""
        window = self._anywhere(rng, size)
        if self.cat_max_ratio >= 1 or label is None:
            return window
        for _ in range(self.attempts - 1):
            if self._accepts(window.cut(label)):
                break
            window = self._anywhere(rng, size)
        return window

    def _anywhere(self, rng: np.random.Generator, size: tuple[int, int]) -> Window:
        height, width = min(self.size[0], size[0]), min(self.size[1], size[1])
        top = int(rng.integers(0, size[0] - height + 1))
        left = int(rng.integers(0, size[1] - width + 1))
        return Window(top, left, height, width)

    def _accepts(self, label: np.ndarray) -> bool:
        counts = np.bincount(label.ravel(), minlength=self.ignore_label + 1)
        counts[self.ignore_label] = 0
        enough = np.count_nonzero(counts) > 1
        return bool(enough and counts.max() / counts.sum() < self.cat_max_ratio)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """What `Photometric` draws; None leaves a part out."""

    brightness: float | None
    contrast: float | None
    contrast_first: bool  # before saturation and hue, or after them
    saturation: float | None
    hue: int | None


@dataclasses.dataclass(frozen=True)
class Photometric(Step):
    """Brightness, contrast, saturation and hue, each with probability one half, on 8-bit pixels.

    Attributes:
      brightness: largest addend.
      contrast: lower and upper factor.
      saturation: lower and upper factor.
      hue: lowest shift, and one more than the largest, in OpenCV's steps of two degrees.
    """

    brightness: float = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: tuple[int, int] = (-18, 18)

    def draw(self, rng: np.random.Generator, example: Example) -> Distortion:
        """Coin first, then value, in the order of application."""
        brightness = self._maybe(rng, (-self.brightness, self.brightness))
        contrast_first = bool(rng.integers(2))
        contrast = self._maybe(rng, self.contrast) if contrast_first else None
        saturation = self._maybe(rng, self.saturation)
        hue = int(rng.integers(*self.hue)) if rng.integers(2) else None
        if not contrast_first:
            contrast = self._maybe(rng, self.contrast)
        return Distortion(brightness, contrast, contrast_first, saturation, hue)

    def apply(self, example: Example, drawn: Distortion) -> Example:
        """Distorts the image; every part rounds to 8 bits on its own, as in the reference."""
        image = example["image"]
        if drawn.brightness is not None:
            image = scale_pixels(image, offset=drawn.brightness)
        if drawn.contrast is not None and drawn.contrast_first:
            image = scale_pixels(image, factor=drawn.contrast)
        if drawn.saturation is not None:
            image = scale_saturation(image, drawn.saturation)
        if drawn.hue is not None:
            image = shift_hue(image, drawn.hue)
        if drawn.contrast is not None and not drawn.contrast_first:
            image = scale_pixels(image, factor=drawn.contrast)
        return example | {"image": image}

    @staticmethod
    def _maybe(rng: np.random.Generator, bounds: tuple[float, float]) -> float | None:
        return float(rng.uniform(*bounds)) if rng.integers(2) else None
