"""Masks of pixels: of the classes of label maps, of the pictures on canvases; overlaps."""

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


def overlaps(both: jax.Array, ours: jax.Array, theirs: jax.Array) -> jax.Array:
    """Intersection over union of proposals and true masks.

    Args:
      both: float32 [..., Q, C], pixels in common.
      ours: float32 [..., Q], pixels of the proposals.
      theirs: float32 [..., C], pixels of the true masks.

    Returns:
      float32 [..., Q, C]; 0 where both masks are empty.
    """
    union = ours[..., :, None] + theirs[..., None, :] - both
    return both / jnp.maximum(union, 1.0)


def overlap_scores(overlaps: jax.Array) -> jax.Array:
    """Overlaps float32 [..., Q, C] as shares of their sum: scores that know the truth."""
    return overlaps / jnp.maximum(overlaps.sum(-1, keepdims=True), 1e-12)
