"""Boundary IoU (Cheng et al., CVPR 2021), and what detectron2 computes under that name.

The boundary of a mask is what erosion by d steps of a 3 x 3 box takes away, everything outside of
the image being background; d is 2 % of the image's diagonal. As the masks of a label map do not
overlap, one map holds the boundaries of all classes: a pixel is on the boundary of its own class
where another class, or the outside, is within d steps. So Boundary IoU is another confusion matrix
and needs no mask per class.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.metrics import detectron2
from ovseg_jax.metrics.confusion import confusion_matrix

_INT32 = np.iinfo(np.int32)
_NOWHERE = _INT32.min  # stands for no class, and is no ignore label either


def boundary_distance(shape: tuple[int, int], ratio: float = 0.02) -> int:
    """Width of a boundary in pixels, at least 1.

    Args:
      shape: height and width of the image.
      ratio: width over the diagonal of the image.
    """
    return max(1, round(ratio * math.hypot(*shape)))


def boundary_map(label: jax.Array, distance: int) -> jax.Array:
    """Which pixels are on the boundary of their class; may be jitted.

    Args:
      label: int [..., H, W].
      distance: width of the boundaries in pixels.

    Returns:
      bool [..., H, W].
    """
    padded = _pad(label, distance, _NOWHERE)
    lowest = _over_box(padded, distance, jax.lax.min, _INT32.max)
    return lowest != _over_box(padded, distance, jax.lax.max, _INT32.min)


def boundary_confusion(
    label: jax.Array, prediction: jax.Array, num_classes: int, ignore_label: int = 255
) -> jax.Array:
    """Counts the pixels of boundaries by true and predicted class; may be jitted.

    The `IoU` that `mmseg.scores` reads off (a sum of) these matrices is the Boundary IoU of each
    class.

    Args:
      label: int [..., H, W], whole images of one size. Pixels equal to `ignore_label` count for
        neither side; that classes end at them makes boundaries all the same.
      prediction: int, of the shape of `label`.
      num_classes: number of classes C.
      ignore_label: label of the pixels that do not count.

    Returns:
      int32 [C + 1, C + 1], rows by label, columns by prediction, for `ConfusionState` to sum; the
      last row and column hold what is on no boundary.
    """
    distance = boundary_distance(label.shape[-2:])
    label, prediction = _int32(label), _int32(prediction)
    kept = boundary_map(label, distance) | (label == ignore_label)
    return confusion_matrix(
        jnp.where(kept, label, _NOWHERE),
        jnp.where(boundary_map(prediction, distance), prediction, _NOWHERE),
        num_classes,
        ignore_label,
    )


def label_difference(label: jax.Array, distance: int) -> jax.Array:
    """Labels minus the smallest label within `distance` pixels, 0 outside of the image.

    This is what detectron2 takes for a boundary. It is one for binary masks; otherwise it is a
    difference of indices, and 0 inside of every region, as for class 0. For parity only.

    Args:
      label: int [..., H, W], not negative.
      distance: as `boundary_map`.

    Returns:
      int32 [..., H, W].
    """
    padded = _pad(label, distance, 0)
    return _int32(label) - _over_box(padded, distance, jax.lax.min, _INT32.max)


def label_difference_confusion(
    label: jax.Array, prediction: jax.Array, num_classes: int, ignore_label: int = 255
) -> jax.Array:
    """detectron2's confusion matrix of boundaries, that is of label differences. For parity only.

    Args:
      label: int [..., H, W], whole images of one size.
      prediction: int, of the shape of `label`, in [0, num_classes).
      num_classes: number of classes C.
      ignore_label: label of the pixels that do not count; C takes its place in differences.

    Returns:
      int32 [C + 1, C + 1], rows by the difference of labels, columns by that of predictions.
    """
    distance = boundary_distance(label.shape[-2:])
    label = _int32(label)
    label = jnp.where(label == ignore_label, num_classes, label)
    differences = (label_difference(each, distance) for each in (label, prediction))
    return confusion_matrix(*differences, num_classes, ignore_label=-1)


def label_difference_iou(matrix: np.ndarray) -> np.ndarray:
    """detectron2's Boundary IoU per class. For parity only.

    Args:
      matrix: integer [C + 1, C + 1] of `label_difference_confusion`, or a sum of them.

    Returns:
      float64 [C], fractions; NaN for a class without any pixel.
    """
    intersect, union, _, _ = detectron2.areas(matrix)
    with np.errstate(invalid="ignore"):
        return intersect / union


def _int32(label: jax.Array) -> jax.Array:
    return jnp.asarray(label).astype(jnp.int32)


def _pad(label: jax.Array, distance: int, value: int) -> jax.Array:
    widths = [(0, 0)] * (label.ndim - 2) + [(distance, distance)] * 2
    return jnp.pad(_int32(label), widths, constant_values=value)


def _over_box(padded: jax.Array, distance: int, reduce: Callable, start: int) -> jax.Array:
    """Reduces the box of `distance` pixels around each entry, one axis after the other."""
    for axis in (padded.ndim - 2, padded.ndim - 1):
        box = [1] * padded.ndim
        box[axis] = 2 * distance + 1
        padded = jax.lax.reduce_window(
            padded, np.int32(start), reduce, box, [1] * padded.ndim, "VALID"
        )
    return padded
