"""Recorded image pipelines of GroupViT against ours: its test chain, and RandAugment."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.transforms import mmseg, randaugment
from data_pipelines.transforms.common import Normalize
from ovseg_jax.parity.runner import Arrays, Quantity, exact, levels, output


def compare_pipeline(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity | tuple]:
    """Images fitted into a box and normalised, and the sizes of pictures without pixels."""
    normalize = Normalize(tuple(meta["norm"]["mean"]), tuple(meta["norm"]["std"]))
    compared: dict[str, Quantity | tuple] = {}
    for number, case in enumerate(meta["cases"]):
        fitted = mmseg.fit_size(tuple(case["ori"]), tuple(case["scale"]))
        compared[f"meta/cases/{number}/new"] = (case["new"], fitted, "exact")
        if f"in/bgr{number}" not in arrays:
            continue
        step = mmseg.ResizeRatio(tuple(case["scale"]), (1.0, 1.0))
        resized = step.apply({"image": _reversed(arrays[f"in/bgr{number}"])}, 1.0)["image"]
        resized_key = f"out/resized_uint8_bgr{number}"
        compared[resized_key] = levels(resized[..., ::-1])
        # From the reference's pixels, for one level of difference is 0.02 after this.
        image = normalize.apply({"image": _reversed(arrays[resized_key])}, None)["image"]
        compared[f"out/img{number}"] = output(image.transpose(2, 0, 1), limit=1e-6)
    return compared


def compare_randaugment(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity | tuple]:
    """Each operation at its levels and signs, and what the reference calls it with."""
    image, fill = Image.fromarray(arrays["in/image"]), tuple(meta["fill"])
    compared: dict[str, Quantity | tuple] = {}
    for case, arguments in meta["args"].items():
        name, level, negative = case.split("/")
        operation = randaugment.Operation(
            name, float(level.removeprefix("level=")), negative == "neg=1"
        )
        ours = randaugment.apply_operation(image, operation, fill)
        compared[f"out/{case}"] = exact(np.asarray(ours))
        if arguments:
            ours = randaugment.argument(operation)
            compared[f"meta/args/{case}"] = (arguments[0], ours, "float")
    return compared


def _reversed(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])
