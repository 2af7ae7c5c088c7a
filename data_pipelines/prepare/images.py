"""Image files in memory, as the data sets store them."""

import io

import cv2
import numpy as np
from PIL import Image


def voc_palette() -> np.ndarray:
    """The colours of VOC's palette PNGs, uint8 [256, 3]: the bits of an index, spread."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def palette_png(label: np.ndarray) -> bytes:
    """A label uint8 [H, W] as a PNG with VOC's palette."""
    image = Image.fromarray(label)
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def encode(array: np.ndarray, ending: str) -> bytes:
    """An RGB picture [H, W, 3] or a grey label [H, W] of 8 or 16 bits in the format of `ending`."""
    pixels = array[..., ::-1] if array.ndim == 3 else array
    return cv2.imencode(ending, np.ascontiguousarray(pixels))[1].tobytes()
