"""Pictures in overlapping windows: what a network makes of each, and the mean of their scores."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ovseg_jax.ops.windows import num_windows, window_exists, window_starts

Pair = tuple[int, int]  # height, width

WINDOW_BATCH = 16  # windows that go through the network at once


class Windows(NamedTuple):
    """The windows of a batch of canvases, in equal steps.

    Attributes:
      corners: int32 [steps, n, 3], canvas, y and x.
      real: float32 [steps, n], 0 where a smaller picture has no such window or a step is padded.
      coverage: float32 [B, H, W, 1], windows over each pixel, at least 1.
      shape: of a window.
    """

    corners: jax.Array
    real: jax.Array
    coverage: jax.Array
    shape: Pair


def lay_windows(sizes: jax.Array, shape: Pair, crop: Pair, stride: Pair, bound: int) -> Windows:
    """Places windows on canvases.

    Args:
      sizes: int32 [B, 2], how much of each canvas is picture.
      shape: of the canvases.
      crop: of a window.
      stride: pixels between windows, down and across.
      bound: on the windows of a step.
    """
    grids = [
        _axis_windows(sizes[:, axis], n, c, s)
        for axis, (n, c, s) in enumerate(zip(shape, crop, stride, strict=True))
    ]
    corners, real = _join_axes(*grids)
    total = len(corners)
    steps = math.ceil(total / bound)
    # Equal steps, so that the padding of the last one is as small as it can be.
    padding = (0, -total % steps)
    corners = jnp.pad(corners, (padding, (0, 0))).reshape(steps, -1, 3)
    real = jnp.pad(real, padding).reshape(steps, -1)
    rows, columns = (_coverage(*grid, n, c) for grid, n, c in zip(grids, shape, crop, strict=True))
    return Windows(corners, real, rows[:, :, None, None] * columns[:, None, :, None], crop)


def encode_windows(encode: Callable, images: jax.Array, sizes: jax.Array, windows: Windows) -> Any:
    """Features of all windows, a tree with leaves [steps, n, ...].

    Args:
      encode: windows [n, *crop, 3] and how much of each is picture, int32 [n, 2] -> features.
      images: float32 [B, H, W, 3], the canvases.
      sizes: int32 [B, 2], how much of each is picture.
      windows: of these canvases.
    """

    def step(corners):
        shown = jnp.clip(sizes[corners[:, 0]] - corners[:, 1:], 0, jnp.asarray(windows.shape))
        return encode(_cut(images, corners, windows.shape), shown)

    if len(windows.corners) > 1:
        return jax.lax.map(step, windows.corners)
    # One step is no loop: XLA's CPU backend runs loop bodies with fewer threads.
    return jax.tree.map(lambda x: x[None], step(windows.corners[0]))


def mean_scores(decode: Callable, features: Any, windows: Windows) -> jax.Array:
    """Scores of the canvases, float32 [B, H, W, N], from those of their windows.

    Args:
      decode: features of windows and their corners int32 [n, 3] -> scores [n, *crop, N].
      features: what `encode_windows` gave, leaves [steps, n, ...].
      windows: of the canvases.
    """

    def add_step(sums, step):
        part, corners, real = step
        scores = decode(part, corners).astype(jnp.float32)
        return _add_windows(sums, scores * real[:, None, None, None], corners), None

    steps = (features, windows.corners, windows.real)
    first = jax.tree.map(lambda x: x[0], steps)
    names = jax.eval_shape(decode, *first[:2]).shape[-1]
    sums = jnp.zeros((*windows.coverage.shape[:3], names))
    if len(windows.corners) == 1:
        sums, _ = add_step(sums, first)
    else:
        sums, _ = jax.lax.scan(add_step, sums, steps)
    return sums / windows.coverage


def sliding_scores(
    predict: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    sizes: jax.Array | None = None,
    *,
    crop: Pair,
    stride: Pair,
    window_batch: int = WINDOW_BATCH,
) -> jax.Array:
    """Mean of the scores of overlapping windows.

    Args:
      predict: float32 [n, *crop, 3] -> [n, *crop, N].
      images: float32 [B, H, W, 3], normalised; at least as large as the window.
      sizes: int32 [B, 2], how much of each image is picture (may be traced); all of it if absent.
      crop: height and width of a window.
      stride: pixels between windows, down and across.
      window_batch: bound on the windows that `predict` sees at once.

    Returns:
      float32 [B, H, W, N]; meaningless beyond `sizes`.
    """
    batch, *shape, _ = images.shape
    if sizes is None:
        sizes = jnp.tile(jnp.asarray(shape, jnp.int32), (batch, 1))
    windows = lay_windows(sizes, tuple(shape), crop, stride, window_batch)
    return mean_scores(
        lambda corners, _: predict(_cut(images, corners, crop)), windows.corners, windows
    )


def _axis_windows(
    sizes: jax.Array, length: int, crop: int, stride: int
) -> tuple[jax.Array, jax.Array]:
    """Starts int32 [B, n] of the windows of an axis, and which of them its picture has."""
    count = num_windows(length, crop, stride)
    options = dict(count=count, crop=crop, stride=stride)
    starts = jax.vmap(functools.partial(window_starts, **options))(sizes)
    return starts, jax.vmap(functools.partial(window_exists, **options))(sizes)


def _join_axes(
    rows: tuple[jax.Array, jax.Array], columns: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Image, y and x of every window int32 [B * ny * nx, 3], and 1.0 where it exists."""
    (ys, real_rows), (xs, real_columns) = rows, columns
    shape = (*ys.shape, xs.shape[1])  # [B, ny, nx]
    corners = [jnp.arange(len(ys))[:, None, None], ys[:, :, None], xs[:, None, :]]
    corners = jnp.stack([jnp.broadcast_to(part, shape) for part in corners], axis=-1)
    real = real_rows[:, :, None] & real_columns[:, None, :]
    return corners.reshape(-1, 3), real.reshape(-1).astype(jnp.float32)


def _cut(images: jax.Array, corners: jax.Array, crop: Pair) -> jax.Array:
    def window(corner):
        start = (corner[0], corner[1], corner[2], 0)
        return jax.lax.dynamic_slice(images, start, (1, *crop, images.shape[-1]))[0]

    return jax.vmap(window)(corners)  # [n, *crop, 3]


def _add_windows(sums: jax.Array, scores: jax.Array, corners: jax.Array) -> jax.Array:
    """Adds windows [n, *crop, N] where they were cut; one after the other since they overlap."""

    def add(index, sums):
        start = (*(corners[index, axis] for axis in range(3)), 0)
        shape = (1, *scores.shape[1:])
        old = jax.lax.dynamic_slice(sums, start, shape)
        return jax.lax.dynamic_update_slice(sums, old + scores[index], start)

    return jax.lax.fori_loop(0, len(scores), add, sums)


def _coverage(starts: jax.Array, real: jax.Array, length: int, crop: int) -> jax.Array:
    """Windows over each entry of an axis: [B, n] -> float32 [B, length], at least 1."""
    position = jnp.arange(length)
    inside = (position >= starts[..., None]) & (position < starts[..., None] + crop)
    return jnp.maximum((inside & real[..., None]).sum(axis=1), 1).astype(jnp.float32)
