"""Recorded sliding windows and test-time augmentation of mmsegmentation against ours."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ovseg_jax.ops.resize import resize
from ovseg_jax.ops.sliding import sliding_scores
from ovseg_jax.parity.model import to_nchw, to_nhwc
from ovseg_jax.parity.runner import Arrays, Quantity, label_map, output

_POOL = 4


def compare_slide(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Windows of several sizes, before and after resizing, and whole images at several scales."""
    original = tuple(meta["ori_shape"])

    def probabilities(scores: jax.Array) -> jax.Array:
        return jax.nn.softmax(resize(scores, original), axis=-1)

    compared: dict[str, Quantity] = {}
    for name, (crop, stride) in meta["slides"].items():
        scores = _slide(arrays, to_nhwc(arrays["in/image"]), tuple(crop), tuple(stride))
        compared[f"out/slide_{name}"] = output(to_nchw(scores))
        compared[f"out/slide_{name}_softmax_ori"] = output(to_nchw(probabilities(scores)))
    views = []
    for number in range(sum(key.startswith("in/aug") for key in arrays)):
        view = probabilities(_network(arrays, to_nhwc(arrays[f"in/aug{number}"])))
        # Each scale is followed by its mirror image.
        views.append(view[:, :, ::-1] if number % 2 else view)
    mean = sum(views) / len(views)
    return compared | {
        "out/aug_mean_softmax": output(to_nchw(mean)),
        "out/aug_pred": label_map(jnp.argmax(mean, axis=-1)),
    }


def _slide(
    arrays: Arrays, image: jax.Array, crop: tuple[int, int], stride: tuple[int, int]
) -> jax.Array:
    # A window that is larger than the image is all of it.
    crop = tuple(map(min, crop, image.shape[1:3]))
    return sliding_scores(
        lambda windows: _network(arrays, windows), image, crop=crop, stride=stride
    )


def _network(arrays: Arrays, windows: jax.Array) -> jax.Array:
    """The toy network of the record, whose scores depend on what else is in the window."""
    x = jnp.tanh(windows - windows.mean(axis=(1, 2), keepdims=True))
    scores = x @ arrays["in/W"].T + arrays["in/b"]  # [n, h, w, K]
    return resize(_pool(scores), windows.shape[1:3])


def _pool(x: jax.Array) -> jax.Array:
    """Means of 4 x 4 pixels, at the far borders of as many as there are."""
    tiles = [-(-side // _POOL) for side in x.shape[1:3]]
    widths = [(0, tile * _POOL - side) for tile, side in zip(tiles, x.shape[1:3], strict=True)]

    def sums(values: jax.Array) -> jax.Array:
        padded = jnp.pad(values, ((0, 0), *widths, (0, 0)))
        rows, columns = tiles
        return padded.reshape(-1, rows, _POOL, columns, _POOL, values.shape[-1]).sum((2, 4))

    return sums(x) / sums(jnp.ones_like(x))
