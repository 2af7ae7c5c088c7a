"""From pictures of any size to label maps at their own size, with static shapes.

A picture is resized on the host and laid on a canvas that is just large enough for its windows, so
that a few canvas shapes serve all sizes. Where the picture ends, where its windows start and how
large it was originally is data: windows are cut by dynamic slices, scores return to the original
size through interpolation matrices built on the device. Another picture size within a bucket, or
other names within the padded vocabulary, compiles nothing anew.

The protocol is mmsegmentation's (`slide` and `whole` modes): scores of overlapping windows are
averaged, resized bilinearly to the original size, and only then compared. One deviation: there a
picture smaller than the window goes through the network at its own size; here it is padded with
the mean colour to the window, because most networks have one input size.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ovseg_jax.ops.images import normalize
from ovseg_jax.ops.resize import traced_bilinear_matrix
from ovseg_jax.ops.windows import num_windows, window_exists, window_starts
from ovseg_jax.params import Flat, merge_model, split_model
from ovseg_jax.text.vocabulary import Vocabulary

Pair = tuple[int, int]  # height, width

_WINDOW_BATCH = 16  # windows that go through the network at once
_SIZE_BUCKET = 128  # original sizes are padded to a multiple of this many pixels
_WHOLE_BUCKET = 32  # and so are pictures that go through the network whole
# Accelerators would otherwise round interpolation weights and scores to 8 or 11 bits.
_EXACT = jax.lax.Precision.HIGHEST


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "state", "mean", "std"),
    meta_fields=("graphdef",),
)
@dataclasses.dataclass(frozen=True)
class Model:
    """A system taken apart for jitted functions, with the pixel statistics it expects.

    Attributes:
      graphdef: what `params.split_model` returned; static.
      params: parameters by path.
      state: other variables by path.
      mean: float32 [3], subtracted from RGB pixels in 0..255.
      std: float32 [3].
    """

    graphdef: nnx.GraphDef
    params: Flat
    state: Flat
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, system: nnx.Module, mean, std) -> "Model":
        """Takes a system apart."""
        mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        return cls(*split_model(system), mean, std)

    def system(self) -> nnx.Module:
        """Puts the system together again; meant for inside `jit`."""
        return merge_model(self.graphdef, self.params, self.state)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a picture passes through a network.

    Attributes:
      short_side: pixels of the shorter side after resizing; 0 leaves the picture as it is.
      crop: height and width of the window; 0 takes the whole (resized) picture at once, padded
        with the mean colour to a multiple of 32, which holds a whole number of patches.
      stride: pixels between two windows.
      flip: whether the softmax is averaged with that of the mirrored picture.
    """

    short_side: int = 0
    crop: int = 0
    stride: int = 0
    flip: bool = False

    def __post_init__(self):
        if self.crop and not 0 < self.stride <= self.crop:
            raise ValueError(f"stride {self.stride} leaves gaps between windows of {self.crop}")

    @classmethod
    def from_config(cls, config) -> "Protocol":
        """Reads the fields of the `eval` section of a config (or any mapping)."""
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})


class Canvas(NamedTuple):
    """A picture ready for the device.

    Attributes:
      pixels: uint8 or float32 [h, w, 3]: the resized picture, padded to a canvas shape.
      size: height and width of the resized picture.
      original_size: height and width that the label map shall have.
      label_shape: padded shape in which the label map is computed.
    """

    pixels: np.ndarray
    size: Pair
    original_size: Pair
    label_shape: Pair


def resized_size(size: Pair, short_side: int) -> Pair:
    """Size after bringing the shorter side to `short_side` (mmcv's rounding); 0 keeps it."""
    if not short_side:
        return size
    factor = short_side / min(size)
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def lay_on_canvas(image: np.ndarray, protocol: Protocol) -> Canvas:
    """Resizes a picture on the host and pads it to the canvas of its windows.

    Args:
      image: uint8 or float32 [H, W, 3].
      protocol: how to resize and which windows will be cut.
    """
    import cv2

    original = image.shape[:2]
    size = resized_size(original, protocol.short_side)
    if size != original:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    shape = _canvas_shape(size, protocol)
    pixels = np.zeros((*shape, 3), image.dtype)
    pixels[: size[0], : size[1]] = image
    # Without resizing there is no way back either: labels are read off the canvas.
    label_shape = tuple(_round_up(n, _SIZE_BUCKET) for n in original)
    return Canvas(pixels, size, original, label_shape if protocol.short_side else shape)


def _canvas_shape(size: Pair, protocol: Protocol) -> Pair:
    crop, stride = protocol.crop, protocol.stride
    if not crop:
        return tuple(_round_up(n, _WHOLE_BUCKET) for n in size)
    return tuple(crop + (num_windows(n, crop, stride) - 1) * stride for n in size)


def _round_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple


def sliding_scores(
    predict: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    sizes: jax.Array | None = None,
    *,
    crop: Pair,
    stride: Pair,
    window_batch: int = _WINDOW_BATCH,
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
    grids = [
        _axis_windows(sizes[:, axis], n, c, s)
        for axis, (n, c, s) in enumerate(zip(shape, crop, stride, strict=True))
    ]
    corners, real = _join_axes(*grids)
    total = len(corners)
    steps = math.ceil(total / window_batch)
    # Equal steps, so that the padding of the last one is as small as it can be.
    padding = (0, _round_up(total, steps) - total)
    corners = jnp.pad(corners, (padding, (0, 0))).reshape(steps, -1, 3)
    real = jnp.pad(real, padding).reshape(steps, -1)

    def add_step(sums, step):
        corners, real = step
        scores = predict(_cut(images, corners, crop)).astype(jnp.float32)
        return _add_windows(sums, scores * real[:, None, None, None], corners), None

    scores = jax.eval_shape(predict, jax.ShapeDtypeStruct((1, *crop, 3), jnp.float32))
    sums = jnp.zeros((batch, *shape, scores.shape[-1]))
    if steps == 1:  # no loop: XLA's CPU backend runs loop bodies with fewer threads
        sums, _ = add_step(sums, (corners[0], real[0]))
    else:
        sums, _ = jax.lax.scan(add_step, sums, (corners, real))
    covered = [_coverage(*grid, n, c) for grid, n, c in zip(grids, shape, crop, strict=True)]
    return sums / (covered[0][:, :, None, None] * covered[1][:, None, :, None])


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


def resize_scores(
    scores: jax.Array, sizes: jax.Array, original_sizes: jax.Array, shape: Pair
) -> jax.Array:
    """Brings scores bilinearly from the resized to the original sizes, both of them data.

    Args:
      scores: float32 [B, h, w, N].
      sizes: int32 [B, 2], the part of `scores` that is picture.
      original_sizes: int32 [B, 2], at most `shape`.
      shape: padded height and width of the result.

    Returns:
      float32 [B, *shape, N], 0 beyond the original sizes.
    """
    down, across = _back_matrices(scores.shape[1:3], sizes, original_sizes, shape)
    return _resize_rows(scores, down, across)


def _back_matrices(
    in_shape: Pair, sizes: jax.Array, original_sizes: jax.Array, shape: Pair
) -> list[jax.Array]:
    return [  # [B, H, h] and [B, W, w]
        jax.vmap(functools.partial(traced_bilinear_matrix, in_max=in_max, out_max=out_max))(
            sizes[:, axis], original_sizes[:, axis]
        )
        for axis, (in_max, out_max) in enumerate(zip(in_shape, shape, strict=True))
    ]


def _resize_rows(scores: jax.Array, down: jax.Array, across: jax.Array) -> jax.Array:
    rows = jnp.einsum("bph,bhwn->bpwn", down, scores, precision=_EXACT)
    return jnp.einsum("bqw,bpwn->bpqn", across, rows, precision=_EXACT)


@functools.partial(jax.jit, static_argnames=("protocol", "label_shape", "with_scores"))
def segment(
    model: Model,
    vocabulary: Vocabulary,
    pixels: jax.Array,
    sizes: jax.Array,
    original_sizes: jax.Array,
    *,
    protocol: Protocol,
    label_shape: Pair,
    with_scores: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Segments a batch of canvases; the one compiled function of inference.

    Args:
      model: the system and its pixel statistics.
      vocabulary: the names; rows with class id -1 are padding and never predicted.
      pixels: uint8 or normalised float32 [B, h, w, 3].
      sizes: int32 [B, 2], the resized picture on each canvas.
      original_sizes: int32 [B, 2].
      protocol: windows and flips.
      label_shape: `Canvas.label_shape`.
      with_scores: whether the scores are returned too, which takes N floats per pixel.

    Returns:
      Class ids int32 [B, *label_shape], meaningless beyond the original sizes, and the scores
      float32 [B, *label_shape, N] (-inf for padding rows; probabilities if `protocol.flip`).
    """
    system = model.system()

    def predict(windows):
        return system.predict(windows, vocabulary)

    shape = pixels.shape[1:3]
    inside = _inside(sizes, shape)[..., None]
    images = jnp.where(inside, normalize(pixels, model.mean, model.std), 0.0)
    crop, stride = ((protocol.crop,) * 2, (protocol.stride,) * 2) if protocol.crop else (shape,) * 2
    views = [images, _mirror(images, sizes)] if protocol.flip else [images]
    views = [sliding_scores(predict, view, sizes, crop=crop, stride=stride) for view in views]
    real = vocabulary.class_ids >= 0

    def decide(views):
        views = [jnp.where(real, view, -jnp.inf) for view in views]
        if protocol.flip:
            views = [sum(jax.nn.softmax(view, axis=-1) for view in views) / len(views)]
        best = jnp.argmax(views[0], axis=-1)  # the first row wins a tie
        return vocabulary.class_ids[best], views[0] if with_scores else None

    if not protocol.short_side:
        views[1:] = [_mirror(view, sizes) for view in views[1:]]
        return decide(views)
    down, across = _back_matrices(shape, sizes, original_sizes, label_shape)
    # A mirrored view comes back mirrored by the order of the rows of its matrix.
    across_views = [across, _mirror(across[:, None], original_sizes)[:, 0]][: len(views)]

    def decide_rows(down):
        return decide(
            [_resize_rows(view, down, turn) for view, turn in zip(views, across_views, strict=True)]
        )

    # Block by block, because N scores per pixel of the original would be the largest array by far.
    blocks = down.reshape(len(down), -1, _SIZE_BUCKET, shape[0]).swapaxes(0, 1)
    return jax.tree.map(_join_rows, jax.lax.map(decide_rows, blocks))


def _join_rows(blocks: jax.Array) -> jax.Array:
    """[blocks, B, rows, W, ...] -> [B, blocks * rows, W, ...]."""
    joined = blocks.swapaxes(0, 1)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])


def _inside(sizes: jax.Array, shape: Pair) -> jax.Array:
    """Which pixels of a canvas are picture: bool [B, H, W]."""
    rows = jnp.arange(shape[0]) < sizes[:, 0, None]
    columns = jnp.arange(shape[1]) < sizes[:, 1, None]
    return rows[:, :, None] & columns[:, None, :]


def _mirror(images: jax.Array, sizes: jax.Array) -> jax.Array:
    """Flips the picture part of canvases [B, H, W, C] from left to right."""
    width = sizes[:, 1, None]
    column = jnp.arange(images.shape[2])
    source = jnp.where(column < width, width - 1 - column, column)  # [B, W]
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)


def segment_canvases(
    model: Model,
    vocabulary: Vocabulary,
    canvases: list[Canvas],
    protocol: Protocol,
    with_scores: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Segments canvases of one shape; arguments and result as in `segment`."""
    return segment(
        model,
        vocabulary,
        np.stack([canvas.pixels for canvas in canvases]),
        np.asarray([canvas.size for canvas in canvases], np.int32),
        np.asarray([canvas.original_size for canvas in canvases], np.int32),
        protocol=protocol,
        label_shape=canvases[0].label_shape,
        with_scores=with_scores,
    )


@jax.jit
def encode_vocabulary(model: Model, tokens: jax.Array) -> jax.Array:
    """Embeds prompts: tokens int32 [n, P, L], P per query -> [n, D]."""
    return model.system().encode_vocabulary(tokens)
