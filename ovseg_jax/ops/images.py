"""Pixels into what a network reads."""

import jax
import jax.numpy as jnp
import numpy as np


def normalize(
    image: jax.Array | np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Brings 8-bit pixels to zero mean and unit variance; float images pass through.

    Sending 8-bit pixels to the device and normalising there moves a quarter of the bytes. A
    pipeline that has normalised already (padding after it, as ZegCLIP does) sends float32.

    Args:
      image: uint8 [..., 3] in 0..255, or float32 [..., 3] that is normalised already.
      mean: per channel, in units of 0..255, in the image's channel order (RGB).
      std: as `mean`.

    Returns:
      float32 [..., 3].

    Raises:
      TypeError: the image is neither 8-bit nor floating point.
    """
    image = jnp.asarray(image)
    if jnp.issubdtype(image.dtype, jnp.floating):
        return image.astype(jnp.float32)
    if image.dtype != jnp.uint8:
        raise TypeError(f"images are uint8 or floating point, not {image.dtype}")
    return (image.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(
        std, jnp.float32
    )
