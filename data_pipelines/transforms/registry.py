"""The steps by the names that configs use, and their making from a config."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.transforms import (
    captions,
    common,
    detectron2,
    few_shot,
    mmseg,
    randaugment,
    regions,
)
from data_pipelines.transforms.step import Step
from ovseg_jax.errors import UserError, nearest

STEPS: dict[str, type[Step]] = {
    "reduce_zero_label": common.ReduceZeroLabel,
    "flip": common.Flip,
    "normalize": common.Normalize,
    "pad": common.Pad,
    "tokenize": common.Tokenize,
    "select": common.Select,
    "choose": common.Choose,
    "resize_ratio": mmseg.ResizeRatio,
    "resize_short_side": mmseg.ResizeShortSide,
    "random_crop": mmseg.RandomCrop,
    "photometric": mmseg.Photometric,
    "resize_shortest_edge": detectron2.ResizeShortestEdge,
    "resize_crop": detectron2.ResizeCrop,
    "large_scale_jitter": detectron2.LargeScaleJitter,
    "color_ssd": detectron2.ColorSSD,
    "present_classes": detectron2.PresentClasses,
    "resize": few_shot.Resize,
    "color_jitter": few_shot.ColorJitter,
    "gaussian_noise": few_shot.GaussianNoise,
    "random_affine": few_shot.RandomAffine,
    "shift_scale_rotate": few_shot.ShiftScaleRotate,
    "random_resized_crop": captions.RandomResizedCrop,
    "center_crop": captions.CenterCrop,
    "choose_caption": captions.ChooseCaption,
    "random_erasing": captions.RandomErasing,
    "rand_augment": randaugment.RandAugment,
    "crop_to_class": regions.CropToClass,
    "cut_center": regions.CutCenter,
}


def create_transforms(
    specs: Sequence[Mapping[str, Any]], tokenizer: Callable | None = None
) -> tuple[Step, ...]:
    """Makes the steps that a config lists.

    Args:
      specs: one mapping per step, its `name` and its fields.
      tokenizer: what `tokenize` uses; needed only if that step is listed.

    Returns:
      The steps, in order.

    Raises:
      UserError: an unknown step or field, a missing field, or no tokenizer for `tokenize`.
    """
    return tuple(_create_step(dict(spec), tokenizer) for spec in specs)


def _create_step(fields: dict[str, Any], tokenizer: Callable | None) -> Step:
    name = fields.pop("name", None)
    if name not in STEPS:
        raise UserError(f"unknown transform {name!r}; {nearest(str(name), STEPS)}")
    if name == "tokenize":
        if tokenizer is None:
            raise UserError("the transform 'tokenize' needs a tokenizer; give the model's")
        fields["tokenizer"] = tokenizer
    if name == "choose" and "branches" in fields:
        branches = fields["branches"]
        fields["branches"] = tuple(create_transforms(steps, tokenizer) for steps in branches)
    known = {field.name: field for field in dataclasses.fields(STEPS[name])}
    for field in fields:
        if field not in known:
            hint = nearest(field, known) if known else "it takes none"
            raise UserError(f"the transform {name!r} has no field {field!r}; {hint}")
    required = [key for key, field in known.items() if field.default is dataclasses.MISSING]
    missing = [key for key in required if key not in fields]
    if missing:
        raise UserError(f"the transform {name!r} lacks {', '.join(missing)}; give it in the config")
    return STEPS[name](**fields)
