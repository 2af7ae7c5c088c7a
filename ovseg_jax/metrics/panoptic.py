"""Panoptic quality (Kirillov et al., CVPR 2019), by the rules of its reference code.

A panoptic map holds a segment id per pixel, a list beside it the category of each segment. Id 0 is
void: nothing there is right or wrong.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ovseg_jax.metrics.mmseg import mean_percent

VOID = 0


class Segment(NamedTuple):
    """A segment of a panoptic map.

    Attributes:
      id: its value in the map.
      category: index in [0, C).
      crowd: whether it is a group that nobody took apart; only labels have those.
    """

    id: int
    category: int
    crowd: bool = False


class Counts(NamedTuple):
    """Sums per category; those of several images are added field by field.

    Attributes:
      iou: float64 [C], over matched pairs.
      tp: int64 [C], matched pairs.
      fp: int64 [C], predicted segments without a partner.
      fn: int64 [C], labelled segments without a partner.
    """

    iou: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


def segment_ids(rgb: np.ndarray) -> np.ndarray:
    """Ids of a panoptic picture: uint8 [..., 3] -> int32 [...], R + 256 G + 65536 B."""
    return np.asarray(rgb, np.int32) @ np.array([1, 256, 65536], np.int32)


def match_segments(
    label: np.ndarray,
    prediction: np.ndarray,
    labelled: Sequence[Segment],
    predicted: Sequence[Segment],
    num_categories: int,
) -> Counts:
    """Matches the segments of one image and counts.

    Two segments of one category match if their IoU is above one half; void is no part of the union.
    What is left over is a false negative or positive, except crowds, and predictions more than half
    of which lies in void or in the crowd of their category.

    Args:
      label: int [H, W], segment ids.
      prediction: int [H, W].
      labelled: the segments of `label`.
      predicted: the segments of `prediction`.
      num_categories: number of categories C.

    Raises:
      ValueError: a predicted segment is in the map but not in the list, or the other way round.
    """
    true_areas, areas = _pixels(label), _pixels(prediction)
    if stray := {segment.id for segment in predicted} ^ (areas.keys() - {VOID}):
        raise ValueError(f"predicted segment {min(stray)} is only in the map or only in the list")
    common = _common_pixels(label, prediction)
    partners: dict[int, int] = {}
    counts = Counts(np.zeros(num_categories), *np.zeros((3, num_categories), np.int64))
    for true in labelled:
        for found in predicted:
            if true.crowd or true.category != found.category:
                continue
            inside = common.get((true.id, found.id), 0)
            void = common.get((VOID, found.id), 0)
            union = true_areas.get(true.id, 0) + areas[found.id] - inside - void
            if 2 * inside > union:
                partners[true.id] = found.id
                counts.iou[true.category] += inside / union
                counts.tp[true.category] += 1
    for true in labelled:
        counts.fn[true.category] += not true.crowd and true.id not in partners
    # Where a category has several crowds, the reference excuses by the last of them only.
    crowds = {true.category: true.id for true in labelled if true.crowd}
    for found in predicted:
        excuses = (VOID, crowds.get(found.category))
        excused = sum(common.get((excuse, found.id), 0) for excuse in excuses)
        matched = found.id in partners.values()
        counts.fp[found.category] += not matched and 2 * excused <= areas[found.id]
    return counts


def quality(counts: Counts) -> dict[str, np.ndarray]:
    """Qualities per category as fractions; NaN for a category without any segment.

    Returns:
      float64 [C] each: `PQ`, the product of `SQ` (mean IoU of matched pairs, 0 if there is none)
      and `RQ` (F1 score of the segments).
    """
    present = counts.tp + counts.fp + counts.fn > 0
    segments = np.where(present, counts.tp + (counts.fp + counts.fn) / 2, np.nan)
    return {
        "PQ": counts.iou / segments,
        "SQ": np.where(present, counts.iou / np.maximum(counts.tp, 1), np.nan),
        "RQ": counts.tp / segments,
    }


def summary(counts: Counts, things: np.ndarray) -> dict[str, float]:
    """Means over the categories with a segment, in percent.

    Args:
      counts: of all images.
      things: bool [C], the categories of countable things; the others are stuff.

    Returns:
      `PQ`, `SQ`, `RQ`, and the same with the suffixes `_things` and `_stuff`.
    """
    things = np.asarray(things, bool)
    groups = {"": slice(None), "_things": things, "_stuff": ~things}
    return {
        name + suffix: mean_percent(values[chosen])
        for suffix, chosen in groups.items()
        for name, values in quality(counts).items()
    }


def _pixels(ids: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _common_pixels(label: np.ndarray, prediction: np.ndarray) -> Mapping[tuple[int, int], int]:
    """Pixels by labelled and predicted id, where there are any."""
    pairs = np.asarray(label, np.int64) << 32 | np.asarray(prediction, np.int64)
    return {(pair >> 32, pair & (2**32 - 1)): count for pair, count in _pixels(pairs).items()}
