"""Masks of pixels: of the classes of label maps, of the pictures on canvases."""

import jax
import jax.numpy as jnp


def inside(sizes: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Which pixels of canvases are picture, from sizes int [B, 2]: bool [B, *shape]."""
    rows = jnp.arange(shape[0]) < sizes[:, 0, None]
    columns = jnp.arange(shape[1]) < sizes[:, 1, None]
    return rows[:, :, None] & columns[:, None, :]


def region_masks(labels: jax.Array, classes: jax.Array) -> jax.Array:
    """Where each listed class is.

    Args:
      labels: int [B, H, W]; values below 0 are no class.
      classes: int [B, K]; -1 fills up, its masks are empty.

    Returns:
      bool [B, K, H, W].
    """
    listed = classes[:, :, None, None]
    return (labels[:, None] == listed) & (listed >= 0)
