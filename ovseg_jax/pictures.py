"""Pictures of every common kind as RGB arrays of 8 bits."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ovseg_jax.errors import UserError

# Of RGB pixels in 0..255: of the pictures that CLIP was trained with, and of ImageNet's.
CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # PIL's grey pictures of 16 bits


def find_pictures(places: Iterable[str]) -> list[str]:
    """Lists pictures, in the order of the places.

    Args:
      places: files, as they are; folders, for the pictures in them by name; patterns such as
        "photos/**/*.jpg", for what they match.

    Raises:
      UserError: a folder or a pattern without pictures, or none at all.
    """
    found: list[str] = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            files = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        elif not path.exists() and glob.has_magic(place):
            files = sorted(glob.glob(place, recursive=True))
        else:
            files = [place]
        if not files:
            raise UserError(f"no picture in {place}; known kinds are {' '.join(SUFFIXES)}.")
        found += files
    if not found:
        raise UserError("no pictures given; name files, folders or patterns.")
    return found


def read_picture(source: str | os.PathLike | np.ndarray | Image.Image) -> np.ndarray:
    """Reads a picture as a person would see it.

    Turned by its EXIF orientation; grey, palette and 16-bit pictures become RGB of 8 bits;
    transparent parts become white.

    Args:
      source: a file, a PIL picture, or an array uint8 or uint16 [H, W], [H, W, 1], [H, W, 3] (RGB)
        or [H, W, 4].

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: the file is missing or unreadable, or the array is not a picture.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source)
    try:
        with Image.open(source) as picture:
            return _from_pil(picture)
    except FileNotFoundError as error:
        raise UserError(f"no picture at {source}; check the path.") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{source} is not a picture of a known kind; convert it to PNG or JPEG."
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{source} has too many pixels to be read safely; scale it down."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # PIL's for damaged files
        raise UserError(f"{source} cannot be read ({error}); replace the damaged file.") from error


def resize_and_crop(
    picture: Image.Image,
    size: int,
    short_side: int = 0,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """CLIP's preprocessing, up to the normalisation (Radford et al., 2021, the reference code).

    The shorter side gets its length (antialiased, in the picture's own mode), the middle is cut
    out, and only then it becomes RGB.

    Args:
      picture: of any mode.
      size: side of the result in pixels.
      short_side: length of the shorter side before cutting; 0 = `size`.
      method: how it is resized.

    Returns:
      uint8 [size, size, 3].
    """
    shorter, wanted = min(picture.size), short_side or size
    width, height = (
        wanted if side == shorter else int(wanted * side / shorter) for side in picture.size
    )
    picture = picture.resize((width, height), method)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture.convert("RGB"))


def shortest_edge_size(size: tuple[int, int], short_edge: int, max_size: int) -> tuple[int, int]:
    """Size of the same ratio with a given short edge, or less if the long one would exceed.

    As detectron2 rounds it.

    Args:
      size: height and width.
      short_edge: wanted length of the shorter side.
      max_size: largest length of the longer side.
    """
    # Multiplied in the reference's order, for the last bit decides where a half is rounded.
    scale = short_edge / min(size)
    height, width = (short_edge if side == min(size) else scale * side for side in size)
    if max(height, width) > max_size:
        scale = max_size / max(height, width)
        height, width = height * scale, width * scale
    return int(height + 0.5), int(width + 0.5)


def _from_pil(picture: Image.Image) -> np.ndarray:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in _WIDE_MODES:
        return _from_array(np.asarray(picture).clip(0, 65535).astype(np.uint16))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return np.asarray(picture.convert("RGB"))


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.uint8, np.uint16) or not array.size:
        raise UserError(
            f"a picture must be uint8 or uint16 and not empty, but this array is {array.dtype} "
            f"{array.shape}; scale it to 0..255 and convert it."
        )
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise UserError(
            f"a picture has the shape [height, width, 3], but this array has {array.shape}; give "
            "one picture per array, channels last."
        )
    if array.shape[-1] == 4:
        return _from_pil(Image.fromarray(array, "RGBA"))
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
