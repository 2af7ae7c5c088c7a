"""Recorded pieces of MaskFormer's data pipeline (detectron2's transforms) against ours.

Resized images may differ by one level: PIL's versions resample the two axes in another order, and
round in between.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from data_pipelines.transforms import common, detectron2, pixels
from data_pipelines.transforms.resize import Window, resize_antialiased
from ovseg_jax.ops.masks import region_masks
from ovseg_jax.parity.runner import Arrays, Quantity, exact, levels
from ovseg_jax.pictures import shortest_edge_size


def compare_mapper(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Replays the training mapper from recorded crops, and resizes the test image."""
    example = {"image": arrays["in/image"], "label": arrays["in/label"]}
    side, short_edges = meta["size_divisibility"], (meta["short_edge"],)
    crop = detectron2.ResizeCrop(short_edges, meta["max_size"], (meta["crop"], meta["crop"]))
    pad = common.Pad((side, side), meta["image_pad"], meta["label_pad"])
    targets = detectron2.PresentClasses(meta["num_classes"], meta["label_pad"])
    size = shortest_edge_size(example["image"].shape[:2], meta["short_edge"], meta["max_size"])
    compared: dict[str, Quantity] = {}
    for variant, flipped in enumerate(meta["flip_of_variant"]):
        left, top, width, height = arrays[f"in/crop_x0_y0_w_h_{variant}"].tolist()
        ours = crop.apply(example, detectron2.Cutout(size, Window(top, left, height, width)))
        ours = common.Flip().apply(ours, bool(flipped))
        ours = targets.apply(pad.apply(ours, None), None)
        masks = np.asarray(region_masks(ours["label"][None], ours["classes"][None])[0])
        present = ours["classes"] >= 0
        compared |= {
            f"out/image_{variant}": levels(ours["image"].transpose(2, 0, 1)),
            f"out/sem_seg_{variant}": exact(ours["label"]),
            f"out/gt_classes_{variant}": exact(ours["classes"][present]),
            f"out/gt_masks_{variant}": exact(masks[present]),
        }
    test = detectron2.ResizeShortestEdge(short_edges, meta["max_size"], label_rule="keep")
    image = test.apply(example, meta["short_edge"])["image"]
    return compared | {"out/test_image": levels(image.transpose(2, 0, 1))}


def compare_color(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Each operation of the SSD augmentation alone, and OpenCV's 8-bit HSV."""
    image = np.ascontiguousarray(arrays["in/image_rgb"])
    functions = {
        "brightness": lambda value: exact(pixels.scale_pixels(image, offset=value)),
        "contrast": lambda value: exact(pixels.scale_pixels(image, factor=value)),
        "saturation": lambda value: levels(pixels.scale_saturation(image, value)),
        "hue": lambda value: levels(pixels.shift_hue(image, value)),
    }
    return {"out/hsv_uint8": exact(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))} | {
        f"out/{name}_{number}": functions[name](value) for name, number, value in meta["ops"]
    }


def compare_resize(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Sizes by the short edge, images, and labels by both rules."""
    rows = arrays["out/shape_rows"].copy()
    for row in rows:
        row[4:] = shortest_edge_size(tuple(row[:2].tolist()), *row[2:4].tolist())
    compared = {"out/shape_rows": exact(rows)}
    for key in (key for key in arrays if key.startswith("out/image_")):
        size, number = arrays[key].shape[:2], key.removeprefix("out/image_")
        label = arrays["in/label"]
        compared |= {
            key: levels(resize_antialiased(arrays["in/image"], size)),
            f"out/label_{number}": exact(detectron2.resize_label(label, size, "half_pixel")),
            f"out/label_double_{number}": exact(detectron2.resize_label(label, size, "floor")),
        }
    return compared
