"""Generalised zero-shot scores: seen classes, unseen classes, and their harmonic mean."""

from collections.abc import Sequence

import numpy as np

from ovseg_jax.metrics import mmseg


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 where one of them is 0, NaN where one of them is."""
    return 0.0 if a == 0 or b == 0 else 2 * a * b / (a + b)


def seen_unseen(
    matrix: np.ndarray, seen: Sequence[int], unseen: Sequence[int], digits: int | None = None
) -> dict[str, float]:
    """ZegCLIP's scores: one prediction over all classes, read off for two sets of them.

    Per-class values are those of `metrics.mmseg`. The pixel accuracy is over all classes (ZegCLIP
    repeats it in its seen and unseen tables).

    Args:
      matrix: integer [C + 1, C + 1] of `metrics.confusion`.
      seen: classes with labels in training.
      unseen: the other classes.
      digits: decimals to round the means to before the harmonic mean is formed (the papers' hIoU
        comes from means of 2 decimals); not rounded if not given.

    Returns:
      In percent: `aAcc`, `mIoU`, `mAcc`, `mIoU_seen`, `mAcc_seen`, `mIoU_unseen`, `mAcc_unseen`,
      `hIoU`. The mean of a set without any class is NaN.
    """
    values = mmseg.scores(matrix)
    groups = {"": slice(None), "_seen": list(seen), "_unseen": list(unseen)}
    result = {"aAcc": mmseg.mean_percent(np.atleast_1d(values["aAcc"]), digits)}
    for suffix, classes in groups.items():
        result[f"mIoU{suffix}"] = mmseg.mean_percent(values["IoU"][classes], digits)
        result[f"mAcc{suffix}"] = mmseg.mean_percent(values["Acc"][classes], digits)
    result["hIoU"] = harmonic_mean(result["mIoU_seen"], result["mIoU_unseen"])
    return result
