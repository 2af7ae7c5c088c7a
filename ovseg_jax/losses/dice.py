"""Dice loss (Milletari et al., "V-Net", 2016) in the linear form of DETR and its descendants."""

import jax


def dice_from_sums(overlap: jax.Array, predicted: jax.Array, present: jax.Array) -> jax.Array:
    """1 − (2 Σ pT + 1) / (Σ p + Σ T + 1), from sums over the pixels of a mask.

    Args:
      overlap: Σ pT.
      predicted: Σ p.
      present: Σ T.

    Returns:
      float of the same shape.
    """
    return 1.0 - (2.0 * overlap + 1.0) / (predicted + present + 1.0)
