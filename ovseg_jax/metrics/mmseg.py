"""The read-outs of mmsegmentation, which most open-vocabulary papers report.

Differences to other protocols that move the figures:

* a class that is predicted but never labelled has IoU 0 and counts in the mean;
* a class neither labelled nor predicted is NaN and left out of it;
* a label beyond the classes that is not the ignore label adds to the predicted area (so that it
  lowers IoU and precision), and to no class's labelled area;
* the F-score of a class without a hit is NaN, so mFscore exceeds mDice.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SCORES = ("IoU", "Acc", "Dice", "Precision", "Recall", "Fscore")


class Areas(NamedTuple):
    """Pixels per class, int64 [C] each."""

    intersect: np.ndarray
    union: np.ndarray
    prediction: np.ndarray
    label: np.ndarray


def reduce_zero_label(label: np.ndarray, ignore_label: int = 255) -> np.ndarray:
    """Turns stored labels whose 0 means nothing into class indices.

    0 becomes `ignore_label`, the others move down by one, `ignore_label` stays.

    Args:
      label: integer [...], of any integer dtype that can hold `ignore_label`.
      ignore_label: label of pixels that do not count.

    Returns:
      As `label`, a new array.
    """
    nothing = (label == 0) | (label == ignore_label)
    # Written so that unsigned types do not wrap around.
    return np.where(nothing, label.dtype.type(ignore_label), label - (~nothing).astype(label.dtype))


def map_labels(label: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    """Replaces labels entry by entry, in place of each other as mmsegmentation 0.x does.

    The chain {0: 1, 1: 3} sends 0 to 3. Comes before `reduce_zero_label`.
    """
    label = label.copy()
    for old, new in mapping.items():
        label[label == old] = new
    return label


def areas(matrix: np.ndarray) -> Areas:
    """Areas per class from a confusion matrix.

    Args:
      matrix: integer [C + 1, C + 1] of `metrics.confusion`, rows by label.
    """
    matrix = np.asarray(matrix, np.int64)
    intersect = np.diagonal(matrix)[:-1].copy()
    label = matrix.sum(axis=1)[:-1]
    prediction = matrix.sum(axis=0)[:-1]
    return Areas(intersect, prediction + label - intersect, prediction, label)


def scores(matrix: np.ndarray, nan_to_num: float | None = None) -> dict[str, np.ndarray]:
    """Scores per class as fractions.

    Args:
      matrix: integer [C + 1, C + 1] of `metrics.confusion`.
      nan_to_num: what replaces 0/0; NaN where not given.

    Returns:
      `aAcc` float64 [], and `IoU`, `Acc`, `Dice`, `Precision`, `Recall`, `Fscore` float64 [C].
    """
    intersect, union, prediction, label = (area.astype(np.float64) for area in areas(matrix))
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = intersect / prediction, intersect / label
        result = {
            "aAcc": np.asarray(intersect.sum() / label.sum()),
            "IoU": intersect / union,
            "Acc": recall,
            "Dice": 2 * intersect / (prediction + label),
            "Precision": precision,
            "Recall": recall,
            "Fscore": 2 * precision * recall / (precision + recall),
        }
    if nan_to_num is None:
        return result
    return {name: np.nan_to_num(value, nan=nan_to_num) for name, value in result.items()}


def picture_mean_iou(matrices: jax.Array) -> jax.Array:
    """Mean IoU of single pictures, to rank them by; may be jitted.

    Args:
      matrices: int32 [B, C + 1, C + 1], one of `metrics.confusion` for each picture.

    Returns:
      float32 [B], fractions, over the classes that are labelled or predicted in the picture; NaN
      where no pixel counts.
    """
    intersect = jnp.diagonal(matrices, axis1=1, axis2=2)[:, :-1]
    union = matrices.sum(axis=1)[:, :-1] + matrices.sum(axis=2)[:, :-1] - intersect
    return jnp.mean(intersect / jnp.maximum(union, 1), axis=1, where=union > 0)


def mean_percent(values: np.ndarray, digits: int | None = None) -> float:
    """Mean in percent over the classes that have a value; NaN where none has."""
    present = values[~np.isnan(values)]
    mean = 100 * float(np.mean(present)) if present.size else float("nan")
    return mean if digits is None else float(np.round(mean, digits))


def summary(
    matrix: np.ndarray, classes: Sequence[int] | None = None, nan_to_num: float | None = None
) -> dict[str, float]:
    """The table that mmsegmentation prints: percent, rounded to 2 decimals.

    Args:
      matrix: integer [C + 1, C + 1] of `metrics.confusion`.
      classes: classes to average over, all if not given; `aAcc` is over all classes always, as in
        the seen and unseen tables of ZegCLIP.
      nan_to_num: what replaces 0/0 before averaging; classes with 0/0 are left out if not given.

    Returns:
      `aAcc` and `mIoU`, `mAcc`, `mDice`, `mPrecision`, `mRecall`, `mFscore`.
    """
    values = scores(matrix, nan_to_num)
    chosen = slice(None) if classes is None else list(classes)
    means = {f"m{name}": mean_percent(values[name][chosen], 2) for name in SCORES}
    return {"aAcc": mean_percent(np.atleast_1d(values["aAcc"]), 2)} | means
