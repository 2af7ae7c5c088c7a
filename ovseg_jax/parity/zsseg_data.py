"""Recorded crops of zsseg's prompt learning against ours.

Resized images may differ by one level, as those of MaskFormer.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.transforms.captions import RandomResizedCrop
from data_pipelines.transforms.regions import CropToClass, CutCenter, class_window
from data_pipelines.transforms.resize import Window
from ovseg_jax.parity.model import names
from ovseg_jax.parity.runner import Arrays, Quantity, exact, levels

_IGNORED = 255


def compare_crops(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Boxes around classes, their centres, and recorded random crops."""
    image, rows = arrays["in/image"], arrays["out/crop_rows"].copy()
    side = meta["test_size"]
    center = CutCenter((side, side), meta["image_pad"], meta["seg_pad"])
    width, height = meta["train_size_arg"]  # swapped in the reference
    resize = RandomResizedCrop((height, width))
    compared: dict[str, Quantity] = {}
    for number, row in enumerate(rows):
        left, top, right, bottom = row[:4].astype(int)
        label = np.zeros(image.shape[:2], np.uint8)
        label[top:bottom, left:right] = 1
        expand = round(float(row[4]), 6)  # recorded in float32
        window = class_window(label == 1, expand)
        row[5:] = window.left, window.top, window.width, window.height
        crop = CropToClass(expand).apply({"image": image, "label": label}, None)
        ours = center.apply(crop, None)
        theirs = arrays[f"out/center_crop_seg_{number}"]
        # The recorded labels hold the number of the class, which is not among the inputs.
        class_id = theirs[theirs != _IGNORED].max(initial=0)
        compared |= {
            f"out/center_crop_{number}": exact(ours["image"]),
            f"out/center_crop_seg_{number}": exact(
                np.where(ours["label"] == 1, class_id, ours["label"])
            ),
        }
    for number in (name.removesuffix("_x_y_w_h") for name in names(arrays, "in/rrc_")):
        left, top, width, height = arrays[f"in/rrc_{number}_x_y_w_h"].tolist()
        ours = resize.apply({"image": image}, Window(top, left, height, width))["image"]
        compared |= {
            f"out/rrc_{number}": levels(ours),
            f"out/rrc_{number}_shape": exact(ours.shape[:2]),
        }
    return compared | {"out/crop_rows": exact(rows)}
