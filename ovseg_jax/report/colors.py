"""One colour per class: distinct, the same in every picture, for any number of classes."""

import functools
import io

import numpy as np
from PIL import Image

NO_CLASS = (128, 128, 128)  # pixels without a class: ignored, or beyond the names
_FIRST = (230, 57, 70)
_GRID = 24  # candidates per channel; enough for thousands of classes
_LIGHTNESS = (0.42, 0.93)  # neither lost in shadows nor in white paper
_CHROMA = 0.07  # greys would be taken for pixels without a class


@functools.lru_cache(maxsize=32)
def palette(count: int) -> np.ndarray:
    """Colours in which each differs as much as possible from those before it.

    Greedy farthest-point choice in OKLab (Ottosson 2020), where distances are as the eye judges
    them; `palette(n)` is the beginning of `palette(m)` for n < m.

    Returns:
      uint8 [count, 3], RGB, read-only.
    """
    candidates, lab = _candidates()
    chosen = np.zeros((count, 3), np.uint8)
    chosen[:1] = _FIRST
    distance = np.full(len(lab), np.inf)
    last = _oklab(np.asarray([_FIRST]))[0]
    for index in range(1, count):
        distance = np.minimum(distance, ((lab - last) ** 2).sum(axis=1))
        best = int(distance.argmax())
        chosen[index], last = candidates[best], lab[best]
    chosen.flags.writeable = False
    return chosen


def colorize(labels: np.ndarray, count: int) -> np.ndarray:
    """Paints a label map.

    Args:
      labels: int [H, W]; labels outside [0, count) get `NO_CLASS`.
      count: number of classes.

    Returns:
      uint8 [H, W, 3], RGB.
    """
    colors = np.concatenate([palette(count), np.asarray([NO_CLASS], np.uint8)])
    return colors[np.where((labels >= 0) & (labels < count), labels, count)]


def label_png(labels: np.ndarray, count: int) -> bytes:
    """Encodes a label map so that programs read class numbers and people see colours.

    Args:
      labels: int [H, W]; labels outside [0, count) become 255 (65535 where `count` > 255).
      count: number of classes.

    Returns:
      A palette PNG; beyond 255 classes, which a palette cannot hold, a grey 16-bit PNG.
    """
    inside = (labels >= 0) & (labels < count)
    if count <= 255:
        picture = Image.fromarray(np.where(inside, labels, 255).astype(np.uint8), "L")
        table = np.full((256, 3), NO_CLASS, np.uint8)
        table[:count] = palette(count)
        picture.putpalette(table.tobytes())
    else:
        picture = Image.fromarray(np.where(inside, labels, 65535).astype(np.uint16))
    return png(picture)


def png(picture: Image.Image | np.ndarray) -> bytes:
    """Encodes a PIL picture or a uint8 [H, W, 3] array as PNG."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@functools.lru_cache(maxsize=1)
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    steps = np.linspace(0, 255, _GRID).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(colors)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    keep = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (chroma > _CHROMA)
    return colors[keep], lab[keep]


def _oklab(colors: np.ndarray) -> np.ndarray:
    """Colours in sRGB, 0..255 [n, 3], to OKLab [n, 3]."""
    srgb = np.asarray(colors, np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_cones = np.asarray(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.asarray(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(linear @ to_cones.T) @ to_lab.T
