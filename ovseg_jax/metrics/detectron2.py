"""The figures of detectron2's `SemSegEvaluator`, and zsseg's split of them into class sets.

Only pixels count whose label and prediction are both classes. A class that is never labelled has
neither IoU nor accuracy; whether its predictions lower mIoU is what the two rules differ in:

* 'legacy' (up to detectron2 0.6, July 2022; zsseg, MaskFormer, SAN): IoUs are summed over the
  labelled classes and divided by the number of classes labelled *or predicted*;
* 'current' (since then; CAT-Seg): both over the labelled classes.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ovseg_jax.metrics import mmseg
from ovseg_jax.metrics.zero_shot import harmonic_mean

Rule = Literal["legacy", "current"]


def areas(matrix: np.ndarray) -> mmseg.Areas:
    """Areas per class, over the pixels whose label and prediction are classes.

    Args:
      matrix: integer [C + 1, C + 1] of `metrics.confusion`, rows by label; ignored pixels may have
        been dropped or stand in its last row.
    """
    inside = np.array(matrix, np.int64)
    inside[-1] = inside[:, -1] = 0
    return mmseg.areas(inside)


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Scores per class as fractions; NaN for a class without a labelled pixel.

    Args:
      matrix: as `areas`.

    Returns:
      `IoU` and `Acc`, float64 [C].
    """
    intersect, union, _, label = areas(matrix)
    accuracy = _ratio(intersect, label)
    return {"IoU": np.where(label > 0, _ratio(intersect, union), np.nan), "Acc": accuracy}


def summary(
    matrix: np.ndarray, rule: Rule = "legacy", classes: Sequence[int] | None = None
) -> dict[str, float]:
    """The means that detectron2 prints.

    Args:
      matrix: as `areas`.
      rule: which classes mIoU is a mean over, see above.
      classes: classes to look at, all if not given.

    Returns:
      In percent, not rounded, NaN where nothing was counted: `mIoU`, `fwIoU` (weighted by labelled
      pixels), `mAcc` (their mACC) and `aAcc` (their pACC).
    """
    chosen = slice(None) if classes is None else list(classes)
    intersect, union, _, label = (area[chosen] for area in areas(matrix))
    # 0 where a class is predicted but never labelled, which is all that the legacy rule adds.
    iou = _ratio(intersect, union)
    labelled = label > 0
    return {
        "mIoU": mmseg.mean_percent(iou if rule == "legacy" else iou[labelled]),
        "fwIoU": 100 * float(_ratio((iou * label)[labelled].sum(), label.sum())),
        "mAcc": mmseg.mean_percent(_ratio(intersect, label)),
        "aAcc": 100 * float(_ratio(intersect.sum(), label.sum())),
    }


def seen_unseen(
    matrix: np.ndarray, seen: Sequence[int], unseen: Sequence[int], rule: Rule = "legacy"
) -> dict[str, float]:
    """Scores by zsseg: one prediction over all classes, read off for two sets of them.

    Unlike in `zero_shot.seen_unseen`, the pixel accuracy of a set is over the pixels labelled with
    its classes.

    Args:
      matrix: as `areas`.
      seen: classes with labels in training; zsseg's set "base".
      unseen: the other classes; zsseg's "unbase".
      rule: as `summary`.

    Returns:
      In percent: the figures of `summary` over all classes, with the suffixes `_seen` and
      `_unseen` those of the sets, and `hIoU`. Those of an empty set are NaN.
    """
    result = summary(matrix, rule)
    for suffix, classes in (("_seen", seen), ("_unseen", unseen)):
        figures = summary(matrix, rule, classes)
        result |= {name + suffix: value for name, value in figures.items()}
    result["hIoU"] = harmonic_mean(result["mIoU_seen"], result["mIoU_unseen"])
    return result


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.true_divide(part, whole)
