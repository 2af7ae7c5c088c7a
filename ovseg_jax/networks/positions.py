"""Position tables of image networks, for other grids than their own."""

import math

import jax
import jax.numpy as jnp

from ovseg_jax.ops.resize import resize, resize_axis


def resize_positions(
    positions: jax.Array,
    grid: tuple[int, int],
    *,
    method: str = "bicubic",
    align_corners: bool = False,
    antialias: bool = False,
    offset: float = 0.0,
    keep: bool | None = None,
) -> jax.Array:
    """Resizes the patch part of a position table to another grid; the class row is kept.

    Args:
      positions: [1 + g*g, D], a square grid, row-major.
      grid: rows and columns wanted.
      method: 'bicubic' | 'bilinear' | 'nearest', with PyTorch's meaning.
      align_corners: whether the outer patches keep their places.
      antialias: whether the kernel is widened when shrinking.
      offset: what DINO adds to `grid` before it divides by the table's side, so that the step
        between two samples is side / (grid + offset); 0.1 there and in what follows it.
      keep: whether the table serves as it is; None = where the grid is the same.

    Returns:
      [1 + h*w, D]; `positions` itself where they are kept.
    """
    side = math.isqrt(positions.shape[0] - 1)
    if grid == (side, side) if keep is None else keep:
        return positions
    table = positions[1:].reshape(side, side, -1)  # [g, g, D]
    options = dict(method=method, align_corners=align_corners, antialias=antialias)
    if offset:
        for axis, size in enumerate(grid):
            table = resize_axis(table, size, axis, scale=(size + offset) / side, **options)
    else:
        table = resize(table, grid, **options)
    return jnp.concatenate([positions[:1], table.reshape(grid[0] * grid[1], -1)])


def sine_positions(grid: tuple[int, int], dim: int) -> jax.Array:
    """Sines and cosines of row and column, each counted from 1 and scaled to end at 2π.

    Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, appendix A.4.

    Args:
      grid: rows and columns.
      dim: channels, the first half for the rows; a multiple of 4.

    Returns:
      float32 [h, w, dim].
    """
    half = dim // 2
    frequency = 10000.0 ** (2 * (jnp.arange(half) // 2) / half)

    def waves(size):
        place = jnp.arange(1, size + 1, dtype=jnp.float32)
        angle = (place / (size + 1e-6) * 2 * math.pi)[:, None] / frequency  # [n, half]
        pairs = jnp.stack([jnp.sin(angle[:, 0::2]), jnp.cos(angle[:, 1::2])], axis=-1)
        return pairs.reshape(size, half)

    rows, columns = waves(grid[0]), waves(grid[1])
    shape = (*grid, half)
    return jnp.concatenate(
        [jnp.broadcast_to(rows[:, None], shape), jnp.broadcast_to(columns, shape)], axis=-1
    )
