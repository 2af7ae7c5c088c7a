"""Recorded interpolations against `ovseg_jax.ops.resize`."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ovseg_jax.ops.resize import resize, resize_axis
from ovseg_jax.parity.runner import Arrays, Quantity, output


def compare_interpolate(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """`torch.nn.functional.interpolate` in all its variants."""
    ours: dict[str, np.ndarray] = {}
    for key in (key for key in arrays if key.startswith("out/")):
        _, case, *variant = key.split("/")
        if case == "linear1d":
            size = int(variant[0].removeprefix("size="))
            ours[key] = resize_axis(jnp.asarray(arrays["in/t"]), size, axis=2)
        elif case.startswith("scale_factor="):
            scale = float(case.removeprefix("scale_factor="))
            x = arrays["in/xs"]
            size = tuple(int(np.floor(side * scale)) for side in x.shape[2:])
            ours[key] = _resize_nchw(x, size, variant[0], scale=scale)
        else:
            x, size = (
                arrays[f"in/{meta['cases'][int(case)]['x']}"],
                meta["cases"][int(case)]["size"],
            )
            ours[key] = _resize_nchw(
                x,
                tuple(size),
                variant[0],
                align_corners="align_corners=True" in variant,
                antialias="antialias" in variant,
            )
    return {key: output(value) for key, value in ours.items()}


def compare_pos_embed(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """ZegCLIP's position table: resized when loaded, and again to the grid of an image."""
    table = jnp.asarray(arrays["in/positional_embedding"])
    source, target = meta["source_grid"], meta["resolution"] // meta["patch"]
    grid = table[1:].reshape(source, source, -1)  # [g, g, D]
    loaded = resize(grid, (target, target))
    ours = {
        "out/positional_embedding": jnp.concatenate(
            [table[:1], loaded.reshape(target * target, -1)]
        )
    }
    for key in (key for key in arrays if key.startswith("out/forward_")):
        height, width = map(int, key.removeprefix("out/forward_").split("x"))
        ours[key] = resize(loaded, (height, width)).reshape(height * width, -1)
    return {key: output(value) for key, value in ours.items()}


def _resize_nchw(x: np.ndarray, size: tuple[int, int], method: str, **options) -> np.ndarray:
    resized = resize(jnp.asarray(x).transpose(0, 2, 3, 1), size, method, **options)
    return np.asarray(resized).transpose(0, 3, 1, 2)  # [B, h, w, C] -> [B, C, h, w]
