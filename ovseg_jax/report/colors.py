"""One colour per class: distinct, the same in every picture, for any number of classes."""

import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

NO_CLASS = (128, 128, 128)  # pixels without a class: ignored, or beyond the names
_FIRST = (230, 57, 70)
_GRID = 24  # candidates per channel; enough for thousands of classes
_LIGHTNESS = (0.42, 0.93)  # neither lost in shadows nor in white paper
_CHROMA = 0.07  # greys would be taken for pixels without a class
_LIGHTNESS_WEIGHT = 0.5  # light and dark also come from the picture below the paint
_APART = 0.13  # nearer colours are hard to tell apart in one picture


@functools.lru_cache(maxsize=32)
def palette(count: int) -> np.ndarray:
    """Colours in which each differs as much as possible from those before it.

    Greedy farthest-point choice in OKLab (Ottosson 2020) with less weight on lightness;
    `palette(n)` is the beginning of `palette(m)` for n < m.

    Returns:
      uint8 [count, 3], RGB, read-only.
    """
    candidates, space = _candidates()
    chosen = np.zeros((count, 3), np.uint8)
    chosen[:1] = _FIRST
    distance = np.full(len(space), np.inf)
    last = _space(np.asarray([_FIRST]))
    for index in range(1, count):
        distance = np.minimum(distance, ((space - last) ** 2).sum(axis=1))
        best = int(distance.argmax())
        chosen[index], last = candidates[best], space[best]
    chosen.flags.writeable = False
    return chosen


def picture_colors(present: Sequence[int], count: int) -> np.ndarray:
    """Colours for one picture: `palette`, but easy to tell apart among the classes present.

    A class keeps its colour of the palette unless a class before it has one like it; then it takes
    the first of the palette that is unlike all others.

    Args:
      present: classes in the picture, the most important first.
      count: number of classes.

    Returns:
      uint8 [count, 3].
    """
    colors, taken = palette(count).copy(), []
    spare = palette(max(count, 64))
    for index in present:
        options = np.concatenate([colors[index : index + 1], spare])  # [n, 3]
        gaps = [np.linalg.norm(_space(options) - other, axis=1) for other in taken]
        gap = np.min(gaps, axis=0) if gaps else np.ones(len(options))
        # Where too many classes leave none that is unlike all, the least alike.
        choice = int(np.argmax(gap > _APART)) if (gap > _APART).any() else int(gap.argmax())
        colors[index] = options[choice]
        taken.append(_space(options[choice : choice + 1]))
    return colors


def colorize(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Paints a label map.

    Args:
      labels: int [H, W]; labels outside [0, C) get `NO_CLASS`.
      colors: uint8 [C, 3].

    Returns:
      uint8 [H, W, 3], RGB.
    """
    count = len(colors)
    table = np.concatenate([colors, np.asarray([NO_CLASS], np.uint8)])
    return table[np.where((labels >= 0) & (labels < count), labels, count)]


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
    return colors[keep], _space(colors[keep])


def _space(colors: np.ndarray) -> np.ndarray:
    """Where distances are as the eye judges painted segments: OKLab, flattened: [n, 3]."""
    return _oklab(colors) * (_LIGHTNESS_WEIGHT, 1, 1)


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
