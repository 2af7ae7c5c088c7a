"""Recorded augmentation of ZegCLIP against ours."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ovseg_jax.metrics import mmseg
from ovseg_jax.parity.runner import Arrays, Quantity, exact, levels, output

# ZegCLIP's pixel statistics, RGB.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class RecordedDraws:
    """Stands in for a random generator and returns recorded numbers in order.

    Every call is checked against the record, so that a step that draws another number, in another
    order or from another range, fails.
    """

    def __init__(self, draws: list):
        """Takes [numpy.random function, its arguments, the value] per draw."""
        self._draws: Iterator = iter(draws)
        self.left = len(draws)

    def random(self) -> float:
        """A number from [0, 1)."""
        return self._next(("random_sample", "rand"), ())

    def uniform(self, low: float, high: float) -> float:
        """A number from [low, high)."""
        return self._next(("uniform",), (low, high))

    def integers(self, low: int, high: int | None = None) -> int:
        """An integer from [low, high), or from [0, low)."""
        bounds = (low,) if high is None else (low, high)
        return int(self._next(("randint",), bounds))

    def _next(self, names: tuple[str, ...], arguments: tuple) -> float:
        if not self.left:
            raise ValueError(f"drew {names[0]}{arguments}; the reference drew no more")
        name, recorded, value = next(self._draws)
        self.left -= 1
        if name not in names or tuple(recorded) != arguments:
            raise ValueError(f"drew {names[0]}{arguments}; the reference drew {name}{recorded}")
        return value


def compare_augment(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Replays ZegCLIP's training transforms step by step, each on the reference's input to it."""
    from data_pipelines.transforms import common
    from data_pipelines.transforms.mmseg import Photometric, RandomCrop, ResizeRatio

    crop = (meta["crop"], meta["crop"])
    steps = {
        "resize": ResizeRatio(tuple(meta["img_scale"]), tuple(meta["ratio_range"])),
        "crop": RandomCrop(crop, meta["cat_max_ratio"], meta["seg_pad_val"]),
        "flip": common.Flip(),
        "pmd": Photometric(),
        "normalize": common.Normalize(_MEAN, _STD),
        "pad": common.Pad(crop, 0, meta["seg_pad_val"]),
    }
    compared: dict[str, Quantity] = {}
    normalized = functools.partial(output, limit=1e-6)
    for sample, draws in enumerate(meta["draws"]):
        prefix = f"s{sample}"
        image, label = arrays[f"{prefix}/in/img_bgr"][..., ::-1], arrays[f"{prefix}/in/label"]
        for name, step in steps.items():
            recorded = RecordedDraws(draws.get(name, []))
            example = {"image": np.ascontiguousarray(image), "label": label}
            ours = step(example, recorded)
            if recorded.left:
                raise ValueError(f"sample {sample}: {name} left {recorded.left} draws unused")
            image_key, label_key = f"{prefix}/out/{name}_img", f"{prefix}/out/{name}_label"
            # The reference holds BGR up to its normalisation, which turns to RGB.
            order = slice(None) if name in ("normalize", "pad") else slice(None, None, -1)
            expected = arrays[image_key]
            within = {"resize": levels, "pmd": levels, "normalize": normalized}.get(name, exact)
            compared[image_key] = within(ours["image"][..., order])
            if label_key in arrays:
                compared[label_key] = exact(ours["label"])
                label = arrays[label_key]
            image = expected[..., order]
    return compared | _compare_pieces(arrays, meta)


def _compare_pieces(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Colour conversions, single distortions, size rules and label reduction."""
    import cv2

    from data_pipelines.transforms import pixels, resize
    from data_pipelines.transforms.mmseg import ResizeShortSide

    def over(values: np.ndarray, function: Callable) -> np.ndarray:
        image = np.ascontiguousarray(arrays["pmd/in/bgr"][..., ::-1])
        return np.stack([function(image, value)[..., ::-1] for value in values.tolist()])

    def rgb(key: str) -> np.ndarray:
        return np.ascontiguousarray(arrays[key][..., ::-1])

    compared: dict[str, Quantity] = {}
    if "hsv/out/hsv" in arrays:
        compared["hsv/out/hsv"] = exact(cv2.cvtColor(rgb("hsv/in/bgr"), cv2.COLOR_RGB2HSV))
        back = pixels.hsv_to_rgb(arrays["hsv/in/hsv"])
        compared["hsv/out/bgr"] = levels(back[..., ::-1])
    if "pmd/out/brightness" in arrays:
        beta, alpha = arrays["pmd/in/beta"], arrays["pmd/in/alpha"]
        scale = pixels.scale_pixels
        compared["pmd/out/brightness"] = exact(over(beta, lambda x, v: scale(x, offset=v)))
        compared["pmd/out/contrast"] = exact(over(alpha, lambda x, v: scale(x, factor=v)))
        compared["pmd/out/saturation"] = levels(over(alpha, pixels.scale_saturation))
        compared["pmd/out/hue"] = levels(over(arrays["pmd/in/hue_shift"], pixels.shift_hue))
    if "sizes/out/train" in arrays:
        sizes = arrays["sizes/in/hw"].tolist()
        ratios = arrays["sizes/in/ratios"].astype(np.float64)
        boxes = [(int(2048 * ratio), int(512 * ratio)) for ratio in ratios]
        fitted = [[resize.fit_size(size, box) for box in boxes] for size in sizes]
        compared["sizes/out/train"] = exact(fitted)
        short = [resize.short_side_size(size, 512) for size in sizes]
        compared["sizes/out/test_min512"] = exact(short)
    if "reduce_zero/out" in arrays:
        compared["reduce_zero/out"] = exact(mmseg.reduce_zero_label(arrays["reduce_zero/in"]))
    if "testresize/out/img_bgr" in arrays:
        test = meta["testresize"]
        step = ResizeShortSide(max(min(test["scale"]), test["min_size"]))
        resized = step.apply({"image": rgb("testresize/in/img_bgr")}, None)["image"]
        compared["testresize/out/img_bgr"] = levels(resized[..., ::-1])
    return compared
