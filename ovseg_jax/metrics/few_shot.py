"""Few-shot scores of binary maps: HSNet's evaluator, and Fusioner's variation of it.

An episode is a picture and one class to find in it. Its pixels are counted on the device; counts
are summed by class, and both protocols are functions of these sums. They differ in what they
count and what they average over:

* HSNet (Min et al., ICCV 2021; also used by LSeg): every episode counts, means are over all
  classes of a fold. A void pixel is left out on PASCAL only; COCO's maps have none.
* Fusioner (Ma et al., BMVC 2022): an episode without a foreground pixel in its target is not
  counted, means are over the classes with a foreground in target or prediction.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.metrics.mmseg import mean_percent


class Counts(NamedTuple):
    """Pixels of background and foreground, integer [..., 2] each."""

    intersection: jax.Array | np.ndarray
    union: jax.Array | np.ndarray


def foreground(logits: jax.Array) -> jax.Array:
    """Which pixels belong to each class, by Fusioner's rule.

    The most probable class takes the pixel if its probability is above 0.5; the first one where
    several are equal.

    Args:
      logits: float [..., K].

    Returns:
      bool [..., K], at most one of K.
    """
    probabilities = jax.nn.sigmoid(logits)
    background = jnp.full_like(probabilities[..., :1], 0.5)
    best = jnp.argmax(jnp.concatenate([background, probabilities], axis=-1), axis=-1)
    return best[..., None] == jnp.arange(1, logits.shape[-1] + 1)


def episode_counts(
    prediction: jax.Array, target: jax.Array, ignored: jax.Array | None = None
) -> Counts:
    """Counts the pixels of each episode; may be jitted.

    Args:
      prediction: [..., H, W], foreground where it is not 0.
      target: as `prediction`.
      ignored: as `prediction`, pixels that do not count; none if not given.

    Returns:
      int32 [..., 2] each, background first.
    """
    predicted, true = _by_value(prediction), _by_value(target)
    if ignored is not None:
        kept = jnp.asarray(ignored)[..., None] == 0
        predicted, true = predicted & kept, true & kept
    return Counts((predicted & true).sum((-3, -2)), (predicted | true).sum((-3, -2)))


def _by_value(binary: jax.Array) -> jax.Array:
    """[..., H, W] -> [..., H, W, 2]."""
    positive = jnp.asarray(binary) != 0
    return jnp.stack([~positive, positive], axis=-1)


def sum_by_class(
    counts: Counts,
    class_ids: np.ndarray,
    num_classes: int,
    scored: np.ndarray | None = None,
) -> Counts:
    """Sums over the episodes of each class, on the host.

    Args:
      counts: integer [E, 2] each.
      class_ids: int [E], the class of each episode, in [0, num_classes).
      num_classes: number of classes C of all folds together.
      scored: bool [E], the episodes that count; all if not given. Fusioner's are those with a
        foreground pixel in their target.

    Returns:
      int64 [C, 2] each; those of several processes or parts of a data set may be added.
    """
    chosen = slice(None) if scored is None else np.asarray(scored, bool)
    sums = [np.zeros((num_classes, 2), np.int64) for _ in counts]
    for total, part in zip(sums, counts, strict=True):
        np.add.at(total, np.asarray(class_ids)[chosen], np.asarray(part)[chosen])
    return Counts(*sums)


def class_iou(counts: Counts, absent: float) -> np.ndarray:
    """IoU of the foreground of each class.

    Args:
      counts: integer [C, 2] of `sum_by_class`.
      absent: the IoU of a class without a foreground in target or prediction: 0 for HSNet, NaN for
        Fusioner.

    Returns:
      float64 [C], fractions.
    """
    intersection, union = (np.asarray(part)[:, 1] for part in counts)
    return np.where(union > 0, intersection / np.maximum(union, 1), absent)


def hsnet(counts: Counts, fold: Sequence[int]) -> dict[str, float]:
    """HSNet's scores of a fold; a class without episodes has IoU 0 and counts.

    Args:
      counts: integer [C, 2] of `sum_by_class`.
      fold: the classes that are held out in the fold.

    Returns:
      In percent: `mIoU`, the mean over classes of the foreground's IoU, and `FB-IoU`, the mean of
      the IoU of all foreground and that of all background.
    """
    return _means(Counts(*(np.asarray(part)[list(fold)] for part in counts)), absent=0.0)


def fusioner(counts: Counts) -> dict[str, float]:
    """Fusioner's scores, over the classes that occur.

    Args:
      counts: integer [C, 2] of `sum_by_class`, of one fold.

    Returns:
      As `hsnet`.
    """
    occurs = np.asarray(counts.union)[:, 1] > 0
    return _means(Counts(*(np.asarray(part)[occurs] for part in counts)), absent=np.nan)


def _means(counts: Counts, absent: float) -> dict[str, float]:
    """Scores of the classes whose counts are given, integer [n, 2] each."""
    with np.errstate(invalid="ignore"):
        binary_iou = counts.intersection.sum(axis=0) / counts.union.sum(axis=0)
    return {
        "mIoU": mean_percent(class_iou(counts, absent)),
        "FB-IoU": 100 * float(binary_iou.mean()),
    }
