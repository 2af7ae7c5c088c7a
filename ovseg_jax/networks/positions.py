"""Position tables of image networks, for other grids than their own."""

import math

import jax
import jax.numpy as jnp

from ovseg_jax.ops.resize import resize


def resize_positions(
    positions: jax.Array,
    grid: tuple[int, int],
    *,
    method: str = "bicubic",
    align_corners: bool = False,
    antialias: bool = False,
) -> jax.Array:
    """Resizes the patch part of a position table to another grid; the class row is kept.

    Args:
      positions: [1 + g*g, D], a square grid, row-major.
      grid: rows and columns wanted.
      method: 'bicubic' | 'bilinear' | 'nearest', with PyTorch's meaning.
      align_corners: whether the outer patches keep their places.
      antialias: whether the kernel is widened when shrinking.

    Returns:
      [1 + h*w, D]; `positions` itself where the grid is the same.
    """
    side = math.isqrt(positions.shape[0] - 1)
    if grid == (side, side):
        return positions
    table = positions[1:].reshape(side, side, -1)  # [g, g, D]
    table = resize(table, grid, method=method, align_corners=align_corners, antialias=antialias)
    return jnp.concatenate([positions[:1], table.reshape(grid[0] * grid[1], -1)])
