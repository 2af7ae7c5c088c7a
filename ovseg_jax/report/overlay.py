"""A picture with its segments painted over it and a legend that a person can read."""

import functools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovseg_jax.report.colors import colorize, picture_colors

_SHOWN_SIDE = 512  # a smaller picture is enlarged by a whole factor to about this longer side
MIN_WIDTH = 320  # of the page, so that a narrow picture still has room for names
_MAX_ENTRIES = 40
INK, _FAINT, PAPER = (28, 30, 34), (110, 115, 122), (255, 255, 255)


class Entry(NamedTuple):
    """A line of a legend."""

    name: str
    color: tuple[int, int, int] | None
    note: str


def present_classes(labels: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The classes in a label map with their share of its pixels, largest first."""
    inside = labels[(labels >= 0) & (labels < count)]
    pixels = np.bincount(inside.ravel(), minlength=count)
    order = np.argsort(-pixels, kind="stable")
    return [(int(k), float(pixels[k] / labels.size)) for k in order if pixels[k]]


def enlargement(size: tuple[int, int]) -> int:
    """Whole factor by which a picture (height, width) is shown."""
    return max(1, round(_SHOWN_SIDE / max(size)))


def enlarge(array: np.ndarray, factor: int) -> np.ndarray:
    """Repeats the pixels of [H, W] or [H, W, C]."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def paint(
    image: np.ndarray,
    labels: np.ndarray,
    colors: np.ndarray,
    opacity: float = 0.65,
    factor: int = 1,
) -> np.ndarray:
    """Paints segments over a picture and draws their outlines.

    The picture shows through in grey: on coloured ground no colour would match the legend. Pixels
    without a class keep the grey picture.

    Args:
      image: uint8 [H, W, 3].
      labels: int [H, W].
      colors: uint8 [C, 3]; labels beyond them have no class.
      opacity: of the paint.
      factor: whole factor of enlargement.

    Returns:
      uint8 [H * factor, W * factor, 3].
    """
    image, labels = enlarge(image, factor), enlarge(labels, factor)
    grey = image.astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)
    ground = np.repeat(grey[..., None], 3, axis=-1)  # [H, W] -> [H, W, 3]
    inside = ((labels >= 0) & (labels < len(colors)))[..., None]
    mixed = opacity * colorize(labels, colors) + (1 - opacity) * ground
    painted = np.where(inside, mixed, ground)
    painted[_borders(labels)] *= 0.35
    return painted.round().astype(np.uint8)


def _borders(labels: np.ndarray) -> np.ndarray:
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return edge


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    unseen: Collection[int] = (),
) -> Image.Image:
    """Draws the segments over the picture, with a legend below.

    Args:
      image: uint8 [H, W, 3].
      labels: int [H, W], indices into `names`.
      names: one per class.
      unseen: classes to mark as not seen in training.

    Returns:
      A PIL picture. A small one is enlarged by a whole factor, because letters need room.
    """
    factor = enlargement(image.shape[:2])
    found = present_classes(labels, len(names))
    colors = picture_colors([index for index, _ in found], len(names))
    painted = Image.fromarray(paint(image, labels, colors, factor=factor))
    entries = [
        Entry(
            names[index],
            tuple(colors[index].tolist()),
            ("unseen, " if index in unseen else "") + _percent(share),
        )
        for index, share in found[:_MAX_ENTRIES]
    ]
    if len(found) > _MAX_ENTRIES:
        entries.append(Entry(f"and {len(found) - _MAX_ENTRIES} more", None, ""))
    if not found:
        entries.append(Entry("nothing found", None, ""))
    return set_below(painted, legend(entries, max(painted.width, MIN_WIDTH)))


def set_below(picture: Image.Image, strip: Image.Image) -> Image.Image:
    """A page with a picture in the middle and a strip, at least as wide, below it."""
    page = Image.new("RGB", (strip.width, picture.height + strip.height), PAPER)
    page.paste(picture, ((strip.width - picture.width) // 2, 0))
    page.paste(strip, (0, picture.height))
    return page


def _percent(share: float) -> str:
    return "< 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def legend(entries: Sequence[Entry], width: int) -> Image.Image:
    """Lays colour chips with names and notes out in lines, `width` pixels wide."""
    size = int(np.clip(width / 32, 15, 48))
    font, margin, gap, line = load_font(size), size, size * 3 // 5, int(size * 1.6)
    places, x, y = [], margin, margin
    for entry in entries:
        entry = entry._replace(name=_shorten(entry, font, width - 2 * margin - size - gap))
        chip = size + gap if entry.color else 0
        length = chip + _text_width(font, _joined(entry))
        if x > margin and x + length > width - margin:
            x, y = margin, y + line
        places.append((entry, x, y))
        x += length + int(size * 1.4)
    strip = Image.new("RGB", (width, y + line + margin // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for entry, x, y in places:
        if entry.color:
            draw.rounded_rectangle((x, y, x + size, y + size), size // 5, entry.color, INK)
            x += size + gap
        middle = y + size / 2
        draw.text((x, middle), entry.name, INK, font, anchor="lm")
        x += _text_width(font, entry.name + " ")
        draw.text((x, middle), entry.note, _FAINT, font, anchor="lm")
    return strip


def _joined(entry: Entry) -> str:
    return f"{entry.name} {entry.note}".rstrip()


def _shorten(entry: Entry, font: ImageFont.FreeTypeFont, width: int) -> str:
    name = entry.name
    while len(name) > 1 and _text_width(font, _joined(entry._replace(name=name))) > width:
        name = name[:-2].rstrip() + "…"
    return name


def _text_width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return int(font.getlength(text)) + 1


@functools.lru_cache(maxsize=8)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of pages, letters of `size` pixels."""
    return ImageFont.load_default(size)
