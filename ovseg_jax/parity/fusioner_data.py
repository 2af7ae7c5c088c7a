"""Recorded evaluation preprocessing of Fusioner against ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.transforms.common import Normalize
from data_pipelines.transforms.few_shot import FUSIONER_COCO, FUSIONER_PASCAL, Resize
from ovseg_jax.parity.runner import Arrays, Quantity, exact, levels, output

_STATISTICS = {"pascal": FUSIONER_PASCAL, "coco": FUSIONER_COCO}


def compare_preprocess(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Images and labels squared, and images normalised with the constants of both data sets."""
    resize = Resize((meta["target"], meta["target"]), "area")
    compared: dict[str, Quantity] = {}
    for number in range(len(meta["shapes"])):
        image, label = arrays[f"in/img_{number}"], arrays[f"in/label_{number}"]
        ours = resize.apply({"image": image, "label": label}, None)
        compared |= {
            f"out/resized_{number}": levels(ours["image"]),
            f"out/label_{number}": exact(ours["label"]),
        }
        # From the reference's pixels, for one level of difference is 0.03 after this.
        squared = arrays[f"out/resized_{number}"]
        for name, statistics in _STATISTICS.items():
            compared |= {
                f"out/{name}_normalized_{number}": _normalized(squared, statistics),
                f"out/{name}_normalized_original_size_{number}": _normalized(image, statistics),
            }
    return {key: quantity for key, quantity in compared.items() if key in arrays}


def _normalized(image: np.ndarray, statistics: tuple) -> Quantity:
    ours = Normalize(*statistics).apply({"image": image}, None)["image"]
    return output(ours.transpose(2, 0, 1), limit=1e-6)
