"""A picture with the texts that belong to it."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ovseg_jax.report.overlay import (
    INK,
    MIN_WIDTH,
    PAPER,
    enlarge,
    enlargement,
    load_font,
    set_below,
)


def captioned(image: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Sets captions below a picture.

    Args:
      image: uint8 [H, W, 3]; a small one is enlarged by a whole factor.
      captions: each begins a line.

    Returns:
      A PIL picture.
    """
    picture = Image.fromarray(enlarge(image, enlargement(image.shape[:2])))
    width = max(picture.width, MIN_WIDTH)
    font = load_font(width // 32)
    fitting = int((width - 2 * font.size) / font.getlength("n"))
    lines = [line for caption in captions for line in textwrap.wrap(f"· {caption}", fitting)]
    line = int(font.size * 1.4)
    strip = Image.new("RGB", (width, line * (len(lines) + 1)), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, text in enumerate(lines, start=1):
        draw.text((font.size, line * number), text, INK, font, anchor="lm")
    return set_below(picture, strip)
