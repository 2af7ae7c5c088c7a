"""The mean figures of a result: their order, and what they are called and mean."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Figure(NamedTuple):
    """A mean of a result.

    Attributes:
      key: of the result.
      label: as readers know it.
      meaning: in a few words.
    """

    key: str
    label: str
    meaning: str


FIGURES = (
    Figure("mIoU", "mIoU", "mean over classes"),
    Figure("mIoU_seen", "mIoU seen", "classes with labels in training"),
    Figure("mIoU_unseen", "mIoU unseen", "classes without"),
    Figure("hIoU", "hIoU", "harmonic mean of the two"),
    Figure("boundary_mIoU", "Boundary mIoU", "of the edges of each class"),
    Figure("FB-IoU", "FB-IoU", "mean of foreground and background"),
    Figure("fwIoU", "fwIoU", "classes weighted by their pixels"),
    Figure("mAcc", "mAcc", "right pixels of each class, mean"),
    Figure("aAcc", "aAcc", "pixels that are right"),
)
# Parts of a result besides the figures of pixels, and what each of them counts.
GROUPS = {"retrieval": "pictures", "zero_shot": "pictures", "regions": "regions"}
_SETS = ("_seen", "_unseen")
_DETECTRON2 = {"mAcc": "mACC", "aAcc": "pACC"}


def percent(value: float | None, sign: str = "") -> str:
    """A figure in two decimals, with a sign on request ('+'); a dash for none."""
    value = number(value)
    return "–" if math.isnan(value) else f"{value:{sign}.2f}"


def number(value: float | None) -> float:
    """A figure of a result; JSON's null is NaN."""
    return math.nan if value is None else float(value)


def figures(result: Mapping) -> list[Figure]:
    """The figures that a result has, as its metrics call them; without those that are NaN."""
    present = [figure for figure in FIGURES if not math.isnan(number(result.get(figure.key)))]
    if result.get("protocol", {}).get("metrics", "").startswith("detectron2"):
        return [
            figure._replace(label=_DETECTRON2.get(figure.key, figure.label)) for figure in present
        ]
    return present


def figures_of_sets(result: Mapping) -> list[Figure]:
    """Those of `figures` that a result also has for the seen and the unseen classes."""
    return [
        figure
        for figure in figures(result)
        if not any(math.isnan(number(result.get(figure.key + suffix))) for suffix in _SETS)
    ]
