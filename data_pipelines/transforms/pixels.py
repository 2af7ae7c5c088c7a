"""Changes of 8-bit pixel values, through tables where the channels do not mix.

Images are uint8 [H, W, 3], RGB.
"""

import cv2
import numpy as np


def _pixel_table(factor: float, offset: float) -> np.ndarray:
    """All 256 results of clip(factor * value + offset), truncated: uint8 [256]."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(values, 0, 255).astype(np.uint8)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """Converts 8-bit HSV (H in 0..179) to RGB, alike on every processor.

    OpenCV truncates in its vector code and rounds in the scalar code that finishes a row, and the
    processor sets where the one ends. One level of difference becomes several once it has gone
    through HSV again. Here the vector code takes whole blocks of 64 pixels (AVX-512, which divides
    by all shorter vectors), the scalar code the rest, in rows too short for any vector.
    """
    height, width = hsv.shape[:2]
    blocks = width // 64 * 64
    rgb = np.empty_like(hsv)
    if blocks:
        rgb[:, :blocks] = cv2.cvtColor(hsv[:, :blocks], cv2.COLOR_HSV2RGB)
    if blocks < width:
        rest = np.ascontiguousarray(hsv[:, blocks:]).reshape(-1, 1, 3)
        rgb[:, blocks:] = cv2.cvtColor(rest, cv2.COLOR_HSV2RGB).reshape(height, -1, 3)
    return rgb


def _through_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """Maps one HSV channel of an RGB image (uint8; H in 0..179) through a table."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    tables = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    tables[0, :, channel] = table
    return hsv_to_rgb(cv2.LUT(hsv, tables))


def scale_pixels(image: np.ndarray, factor: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Brightness and contrast: factor * value + offset in float32, clipped and truncated."""
    return cv2.LUT(image, _pixel_table(factor, offset))


def scale_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the saturation of an 8-bit RGB image."""
    return _through_hsv(image, 1, _pixel_table(factor, 0.0))


def shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue of an 8-bit RGB image by `shift` steps of two degrees."""
    return _through_hsv(image, 0, ((np.arange(256) + shift) % 180).astype(np.uint8))


def scale_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance of an 8-bit RGB image from its mean grey (torchvision's contrast)."""
    mean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
    return scale_pixels(image, factor, mean * (1 - factor))


def blend_with_grey(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance of an 8-bit RGB image from its grey (torchvision's saturation)."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)
