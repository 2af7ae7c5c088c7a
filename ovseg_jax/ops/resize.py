"""Resizing as products with interpolation matrices, in PyTorch's arithmetic.

`jax.image.resize` has another cubic kernel (a = -0.5), no `align_corners`, and no explicit scale
factor. A matrix per axis has them all, needs no gather, is differentiated by transposition, and
may be built from sizes that are data.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("nearest", "bilinear", "bicubic")
# Accelerators would otherwise round interpolation weights and values to 8 or 11 bits.
_EXACT = jax.lax.Precision.HIGHEST
_CUBIC = -0.75  # PyTorch's and OpenCV's coefficient
_TAPS = (-1, 0, 1, 2)  # entries that bicubic interpolation reads, from the one before
_CUBIC_ANTIALIAS = -0.5  # PyTorch switches to Pillow's when it antialiases


@functools.lru_cache(maxsize=512)
def interpolation_matrix(
    in_size: int,
    out_size: int,
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Matrix that resizes one axis as `torch.nn.functional.interpolate` does.

    Args:
      in_size: entries on the axis.
      out_size: entries wanted.
      method: 'nearest' (floor rule, as OpenCV), 'bilinear' (1-D: linear) or 'bicubic'.
      align_corners: whether the centres of the outermost entries are kept in place.
      antialias: whether the kernel is stretched when the axis shrinks.
      scale: an explicit `scale_factor`: it, and not out_size / in_size, sets the step.

    Returns:
      float32 [out_size, in_size], read-only.

    Raises:
      ValueError: an unknown method, an empty axis, or a combination no reference uses.
    """
    if method not in METHODS:
        raise ValueError(f"unknown resize method {method!r}; one of {', '.join(METHODS)}")
    if in_size < 1 or out_size < 1:
        raise ValueError(f"cannot resize {in_size} entries to {out_size}")
    if align_corners and (antialias or scale is not None or method == "nearest"):
        raise ValueError("align_corners goes with plain bilinear and bicubic resizing only")
    if antialias and method == "nearest":
        raise ValueError("antialias goes with bilinear and bicubic resizing only")
    step = _step(in_size, out_size, align_corners, scale)
    if method == "nearest":
        matrix = np.eye(in_size, dtype=np.float32)[_nearest_index(in_size, out_size, step)]
    elif antialias:
        matrix = _antialiased(in_size, out_size, step, method)
    else:
        matrix = _plain(in_size, out_size, step, method, align_corners)
    matrix.flags.writeable = False
    return matrix


def resize_axis(
    x: jax.Array,
    size: int,
    axis: int,
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    scale: float | None = None,
) -> jax.Array:
    """Resizes one axis of a float array; arguments as in `interpolation_matrix`."""
    if x.shape[axis] == size and scale is None:
        return x
    if method == "nearest" and scale is None and _repeats(x.shape[axis], size):
        return jnp.repeat(x, size // x.shape[axis], axis)
    matrix = interpolation_matrix(x.shape[axis], size, method, align_corners, antialias, scale)
    # The default precision of accelerators would round the weights to 8 or 11 bits.
    product = jnp.tensordot(
        x, jnp.asarray(matrix, x.dtype), axes=(axis, 1), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.moveaxis(product, -1, axis)


def resize(
    x: jax.Array,
    size: tuple[int, int],
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    scale: float | None = None,
) -> jax.Array:
    """Resizes the two spatial axes of a float array.

    Args:
      x: float [..., H, W, C].
      size: height and width wanted.
      method: see `interpolation_matrix`, also for the other arguments.
      align_corners: see there.
      antialias: see there.
      scale: see there; the same for both axes.

    Returns:
      [..., h, w, C] of the dtype of `x`.
    """
    options = (method, align_corners, antialias, scale)
    height, width = size
    if x.shape[-2] * height <= x.shape[-3] * width:  # the smaller intermediate array first
        return resize_axis(
            resize_axis(x, height, x.ndim - 3, *options), width, x.ndim - 2, *options
        )
    return resize_axis(resize_axis(x, width, x.ndim - 2, *options), height, x.ndim - 3, *options)


def take_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes the last two axes of an array of any dtype as method 'nearest' does.

    Args:
      x: [..., H, W]; labels or masks, of which no float copy is made.
      size: height and width wanted.

    Returns:
      [..., h, w] of the dtype of `x`.
    """
    for axis, out_size in zip((-2, -1), size, strict=True):
        in_size = x.shape[axis]
        index = _nearest_index(in_size, out_size, _step(in_size, out_size, False, None))
        x = jnp.take(x, index, axis=axis)
    return x


def traced_bilinear_matrix(
    in_size: int | jax.Array, out_size: int | jax.Array, in_max: int, out_max: int
) -> jax.Array:
    """The bilinear matrix (align_corners=False) with the two sizes as data.

    Entries of the padded axes carry no weight: columns from `in_size` and rows from `out_size` on
    are zero. Works under `jit` and `vmap`.

    Args:
      in_size: real entries, 1..in_max; may be traced.
      out_size: entries wanted, 1..out_max; may be traced.
      in_max: padded length of the input axis.
      out_max: padded length of the output axis.

    Returns:
      float32 [out_max, in_max].
    """
    in_size = jnp.asarray(in_size, jnp.int32)
    out_size = jnp.asarray(out_size, jnp.int32)
    step = in_size.astype(jnp.float32) / out_size.astype(jnp.float32)
    row = jnp.arange(out_max, dtype=jnp.int32)
    position = jnp.maximum((row.astype(jnp.float32) + 0.5) * step - 0.5, 0.0)
    low = jnp.minimum(jnp.floor(position).astype(jnp.int32), in_size - 1)
    high = jnp.minimum(low + 1, in_size - 1)
    # The clip binds only where the position lies beyond the last entry, where low equals high.
    fraction = jnp.clip(position - low.astype(jnp.float32), 0.0, 1.0)[:, None]
    column = jnp.arange(in_max, dtype=jnp.int32)
    weights = jnp.where(column == low[:, None], 1.0 - fraction, 0.0)
    weights += jnp.where(column == high[:, None], fraction, 0.0)
    return jnp.where(row[:, None] < out_size, weights, 0.0)  # [out_max, in_max]


def traced_bicubic_matrix(
    start: jax.Array, length: jax.Array, in_max: int, out_size: int
) -> jax.Array:
    """The bicubic matrix (align_corners=False, no antialias) of a part of an axis that is data.

    The part is resized as if nothing lay around it: its own ends are repeated beyond them. Works
    under `jit` and `vmap`.

    Args:
      start: first entry of the part.
      length: entries of the part, at least 1; `start + length` is at most `in_max`.
      in_max: entries of the axis.
      out_size: entries wanted.

    Returns:
      float32 [out_size, in_max].
    """
    start, length = (jnp.asarray(n, jnp.int32) for n in (start, length))
    # XLA divides by constants through their rounded inverses; these quotients are exact.
    steps = np.arange(in_max + 1, dtype=np.float32) / np.float32(out_size)
    position = (jnp.arange(out_size, dtype=jnp.float32) + 0.5) * jnp.asarray(steps)[length] - 0.5
    low = jnp.floor(position)
    column = jnp.arange(in_max, dtype=jnp.int32)
    matrix = jnp.zeros((out_size, in_max), jnp.float32)
    for offset in _TAPS:
        tap = start + jnp.clip(low.astype(jnp.int32) + offset, 0, length - 1)
        weight = _cubic(position - low - offset, _CUBIC)
        matrix += jnp.where(column == tap[:, None], weight[:, None], 0.0)
    return matrix


def traced_matrices(
    in_shape: tuple[int, int], sizes: jax.Array, new_sizes: jax.Array, shape: tuple[int, int]
) -> list[jax.Array]:
    """The bilinear matrices of both axes of a batch, sizes as data: [B, H, h] and [B, W, w].

    Arguments as in `resize_traced`; `in_shape` is h and w.
    """
    return [
        jax.vmap(functools.partial(traced_bilinear_matrix, in_max=in_max, out_max=out_max))(
            sizes[:, axis], new_sizes[:, axis]
        )
        for axis, (in_max, out_max) in enumerate(zip(in_shape, shape, strict=True))
    ]


def apply_matrices(x: jax.Array, down: jax.Array, across: jax.Array) -> jax.Array:
    """Resizes [B, h, w, N] by matrices [B, H, h] and [B, W, w] to [B, H, W, N]."""
    rows = jnp.einsum("bph,bhwn->bpwn", down, x, precision=_EXACT)
    return jnp.einsum("bqw,bpwn->bpqn", across, rows, precision=_EXACT)


def resize_traced(
    x: jax.Array, sizes: jax.Array, new_sizes: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Resizes bilinearly (align_corners=False) from sizes to sizes that are data.

    Args:
      x: float32 [B, h, w, N].
      sizes: int32 [B, 2], the part of `x` that counts.
      new_sizes: int32 [B, 2], at most `shape`.
      shape: padded height and width of the result.

    Returns:
      float32 [B, *shape, N], 0 beyond the new sizes.
    """
    return apply_matrices(x, *traced_matrices(x.shape[1:3], sizes, new_sizes, shape))


def _repeats(in_size: int, out_size: int) -> bool:
    """Whether the nearest entries are each entry equally often, in spite of rounding."""
    if out_size % in_size:
        return False
    index = _nearest_index(in_size, out_size, _step(in_size, out_size, False, None))
    return np.array_equal(index, np.repeat(np.arange(in_size), out_size // in_size))


def _step(in_size: int, out_size: int, align_corners: bool, scale: float | None) -> np.float32:
    """Input entries per output entry."""
    if align_corners:
        return np.float32((in_size - 1) / (out_size - 1)) if out_size > 1 else np.float32(0)
    if scale is not None:
        return np.float32(1.0 / scale)
    return np.float32(in_size) / np.float32(out_size)


def _nearest_index(in_size: int, out_size: int, step: np.float32) -> np.ndarray:
    index = np.floor(np.arange(out_size, dtype=np.float32) * step).astype(np.int64)
    return np.minimum(index, in_size - 1)


def _plain(
    in_size: int, out_size: int, step: np.float32, method: str, align_corners: bool
) -> np.ndarray:
    position = np.arange(out_size, dtype=np.float32)
    if align_corners:
        position = position * step
    else:
        position = (position + np.float32(0.5)) * step - np.float32(0.5)
    if method == "bilinear":
        position = np.maximum(position, np.float32(0))
        low = np.minimum(np.floor(position).astype(np.int64), in_size - 1)
        fraction = np.clip(position - low.astype(np.float32), np.float32(0), np.float32(1))
        taps, weights = (low, low + 1), (np.float32(1) - fraction, fraction)
    else:
        low = np.floor(position).astype(np.int64)
        fraction = position - low.astype(np.float32)
        taps = tuple(low + offset for offset in _TAPS)
        weights = tuple(_cubic(fraction - np.float32(offset), _CUBIC) for offset in _TAPS)
    matrix = np.zeros((out_size, in_size), np.float32)
    rows = np.arange(out_size)
    for tap, weight in zip(taps, weights, strict=True):
        # Taps beyond the border fall on the outermost entry, whose weights add up.
        np.add.at(matrix, (rows, np.clip(tap, 0, in_size - 1)), weight)
    return matrix


def _antialiased(in_size: int, out_size: int, step: np.float32, method: str) -> np.ndarray:
    stretch = max(float(step), 1.0)
    support = (1.0 if method == "bilinear" else 2.0) * stretch
    center = float(step) * (np.arange(out_size) + 0.5)[:, None]
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), in_size)
    column = np.arange(in_size)
    distance = (column - center + 0.5) / stretch
    if method == "bilinear":
        weights = np.maximum(1.0 - np.abs(distance), 0.0)
    else:
        weights = _cubic(distance, _CUBIC_ANTIALIAS)
    weights = np.where((column >= first) & (column < last), weights, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(distance: np.ndarray | jax.Array, a: float) -> np.ndarray | jax.Array:
    """Cubic convolution kernel (Keys, 1981) with free coefficient `a`."""
    where = jnp.where if isinstance(distance, jax.Array) else np.where
    a = distance.dtype.type(a)
    x = abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return where(x <= 1, near, where(x < 2, far, 0)).astype(distance.dtype)
