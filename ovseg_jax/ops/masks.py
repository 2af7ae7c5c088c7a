"""Masks of the classes of label maps."""

import jax


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
