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


def boundary_map(label: jax.Array, distance: int | jax.Array) -> jax.Array:
    """Which pixels are on the boundary of their class; may be jitted.

    Args:
      label: int [..., H, W].
      distance: width of the boundaries in pixels, a number or int32 [...]; may be traced.

    Returns:
      bool [..., H, W].
    """
    label = _int32(label)
    lowest = _over_box(label, distance, jax.lax.min, _INT32.max, outside=_NOWHERE)
    highest = _over_box(label, distance, jax.lax.max, _INT32.min, outside=_NOWHERE)
    return lowest != highest


def boundary_confusion(
    label: jax.Array,
    prediction: jax.Array,
    num_classes: int,
    ignore_label: int = 255,
    *,
    distance: int | jax.Array | None = None,
    inside: jax.Array | None = None,
) -> jax.Array:
    """Counts the pixels of boundaries by true and predicted class; may be jitted.

    The `IoU` that `mmseg.scores` reads off (a sum of) these matrices is the Boundary IoU of each
    class.

    Args:
      label: int [..., H, W]. Pixels equal to `ignore_label` count for neither side; that classes
        end at them makes boundaries all the same.
      prediction: int, of the shape of `label`.
      num_classes: number of classes C.
      ignore_label: label of the pixels that do not count.
      distance: width of the boundaries, a number or int32 [...]; that of `boundary_distance` for
        whole images if not given.
      inside: bool [..., H, W], which pixels are image, where images of several sizes are padded
        to one; all if not given.

    Returns:
      int32 [C + 1, C + 1], rows by label, columns by prediction, for `ConfusionState` to sum; the
      last row and column hold what is on no boundary.
    """
    if distance is None:
        distance = boundary_distance(label.shape[-2:])
    label, prediction = _int32(label), _int32(prediction)
    if inside is not None:
        label, prediction = (jnp.where(inside, each, _NOWHERE) for each in (label, prediction))
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
    label = _int32(label)
    return label - _over_box(label, distance, jax.lax.min, _INT32.max, outside=0)


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


def _over_box(
    label: jax.Array, distance: int | jax.Array, reduce: Callable, start: int, outside: int
) -> jax.Array:
    """Reduces the box of `distance` pixels around each entry of int32 [..., H, W].

    Step by step, so that the distance may be data, and another one for each image. `outside` must
    be the least value, or neutral.
    """
    distance = jnp.asarray(distance, jnp.int32)
    widths = [(0, 0)] * (label.ndim - 2) + [(1, 1)] * 2
    box = [1] * (label.ndim - 2) + [3, 3]
    strides = [1] * label.ndim

    def step(done, reduced):
        padded = jnp.pad(reduced, widths, constant_values=outside)
        wider = jax.lax.reduce_window(padded, np.int32(start), reduce, box, strides, "VALID")
        return jnp.where((done < distance)[..., None, None], wider, reduced)

    return jax.lax.fori_loop(0, distance.max(), step, label)
