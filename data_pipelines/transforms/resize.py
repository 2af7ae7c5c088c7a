"""Sizes by the references' rules of rounding, and pixels by their ways of resampling.

Sizes are (height, width). OpenCV's bilinear takes two pixels per axis however much the picture
shrinks; PIL's covers all of them (antialiasing). Both compute 8-bit images in fixed point, so only
calling them gives the references' pixels.
"""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The part of an array [H, W, …]; a window beyond the border becomes smaller."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


def fit_size(size: tuple[int, int], box: tuple[float, float]) -> tuple[int, int]:
    """Largest size of the same ratio that fits into a box, either way round (mmcv's rule).

    Args:
      size: height and width.
      box: two side lengths, in any order.
    """
    height, width = size
    factor = min(max(box) / max(height, width), min(box) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Size of the same ratio whose short side is exact; the long side has no limit."""
    return fit_size(size, (short_side * max(size) / min(size), short_side))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear without antialiasing; 8-bit images in OpenCV's fixed-point arithmetic."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour by the floor rule."""
    return cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def resize_antialiased(
    image: np.ndarray, size: tuple[int, int], window: Window | None = None
) -> np.ndarray:
    """Bilinear with antialiasing where it shrinks, in PIL's 8-bit arithmetic.

    Args:
      image: uint8 [H, W, 3].
      size: of the whole result.
      window: the part of it that is wanted; its pixels are those of the whole result.

    Returns:
      uint8 [h, w, 3], h and w of the window or of the size.
    """
    height, width = size
    picture = Image.fromarray(image)
    window = window or Window(0, 0, height, width)
    if height >= picture.height and window.width < width:
        # Where it adds rows, PIL resamples along the rows, rounds to 8 bits, then along the
        # columns. Asked for one axis at a time it does the same, and what is not wanted can be
        # left out of the second pass, most of the work. (PIL's own `box` is in float32, which
        # moves some pixels by a level; pictures that lose rows are quick anyway.)
        picture = picture.resize((width, picture.height), Image.Resampling.BILINEAR)
        picture = picture.crop((window.left, 0, window.left + window.width, picture.height))
        window, width = window._replace(left=0), window.width
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return window.cut(np.asarray(picture))


def resize_nearest(
    label: np.ndarray, size: tuple[int, int], window: Window | None = None
) -> np.ndarray:
    """Nearest neighbour by the floor rule as PyTorch computes it, in float32.

    Args:
      label: [H, W], of any type.
      size: of the whole result.
      window: the part of it that is wanted.
    """
    window = window or Window(0, 0, *size)
    rows = _floor_indices(label.shape[0], size[0])[window.top : window.top + window.height]
    columns = _floor_indices(label.shape[1], size[1])[window.left : window.left + window.width]
    return label.take(rows, axis=0).take(columns, axis=1)


def _floor_indices(length: int, new_length: int) -> np.ndarray:
    positions = np.arange(new_length, dtype=np.float32) * np.float32(length / new_length)
    return np.minimum(positions.astype(np.int64), length - 1)
