"""Positions of sliding windows along one axis, by the rule of mmsegmentation."""

import jax
import jax.numpy as jnp


def num_windows(size: int, crop: int, stride: int) -> int:
    """Number of windows of `crop` pixels, `stride` apart, that cover `size` pixels."""
    return max(size - crop + stride - 1, 0) // stride + 1


def window_starts(size: int | jax.Array, count: int, crop: int, stride: int) -> jax.Array:
    """First pixel of each window: multiples of the stride, shifted back to end at the border.

    Args:
      size: pixels on the axis; may be traced, so that one compiled program serves all sizes.
      count: windows to return; those beyond `num_windows` repeat the last one and are told apart
        by `window_exists`.
      crop: pixels in a window.
      stride: pixels between two starts.

    Returns:
      int32 [count].
    """
    starts = jnp.arange(count, dtype=jnp.int32) * stride
    return jnp.minimum(starts, jnp.maximum(jnp.asarray(size, jnp.int32) - crop, 0))


def window_exists(size: int | jax.Array, count: int, crop: int, stride: int) -> jax.Array:
    """Which of `count` windows belong to an axis of (possibly traced) `size`: bool [count]."""
    index = jnp.arange(count, dtype=jnp.int32)
    end_of_previous = (index - 1) * stride + crop
    return (index == 0) | (end_of_previous < jnp.asarray(size, jnp.int32))
