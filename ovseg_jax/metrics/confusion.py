"""One integer confusion matrix: counted on the device, summed on the host."""

import jax
import jax.numpy as jnp
import numpy as np

_INT32_MAX = np.iinfo(np.int32).max


def confusion_matrix(
    label: jax.Array, prediction: jax.Array, num_classes: int, ignore_label: int = 255
) -> jax.Array:
    """Counts pixels by true and predicted class; may be jitted.

    Args:
      label: int [...]; pixels equal to `ignore_label` are dropped.
      prediction: int, of the shape of `label`.
      num_classes: number of classes C.
      ignore_label: label of the pixels that do not count, inside [0, C) or not.

    Returns:
      int32 [C + 1, C + 1], rows by label, columns by prediction. The last row holds labels
      outside [0, C) that are not ignored, the last column predictions outside [0, C).
    """
    label = jnp.asarray(label).astype(jnp.int32).ravel()
    prediction = jnp.asarray(prediction).astype(jnp.int32).ravel()
    row = jnp.where((label >= 0) & (label < num_classes), label, num_classes)
    column = jnp.where((prediction >= 0) & (prediction < num_classes), prediction, num_classes)
    cells = (num_classes + 1) ** 2
    # A dropped pixel is sent beyond the last cell, where the scatter lets it fall.
    cell = jnp.where(label == ignore_label, cells, row * (num_classes + 1) + column)
    counts = jnp.zeros(cells, jnp.int32).at[cell].add(1, mode="drop")
    return counts.reshape(num_classes + 1, num_classes + 1)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The most frequent errors.

    Args:
      matrix: integer [C + 1, C + 1] of `confusion_matrix`.
      count: how many at most.

    Returns:
      Triples of the true class, the predicted class and the number of pixels, which is not 0; those
      of most pixels first.
    """
    wrong = np.array(matrix[:-1, :-1])
    np.fill_diagonal(wrong, 0)
    cells = np.argsort(-wrong, axis=None, kind="stable")[:count]
    places = (np.unravel_index(cell, wrong.shape) for cell in cells if wrong.flat[cell])
    return [(int(true), int(predicted), int(wrong[true, predicted])) for true, predicted in places]


class ConfusionState:
    """Sum of confusion matrices: int32 on the device, int64 on the host.

    Additions on the device are not waited for. The sum is fetched when it is read, and before the
    pixels counted since the last fetch could overflow 32 bits.
    """

    def __init__(self, num_classes: int):
        """Starts an empty sum over `num_classes` classes."""
        self.num_classes = num_classes
        self._host = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        self._device: jax.Array | None = None
        self._pixels = 0

    def update(self, matrix: jax.Array, pixels: int) -> None:
        """Adds one matrix.

        Args:
          matrix: int32 [C + 1, C + 1] of `confusion_matrix`.
          pixels: upper bound of its sum, known without looking at it (images times area).

        Raises:
          ValueError: the matrix is over another number of classes.
        """
        if matrix.shape != self._host.shape:
            raise ValueError(
                f"a confusion matrix of shape {matrix.shape} cannot be added to one over "
                f"{self.num_classes} classes"
            )
        if self._pixels + pixels > _INT32_MAX:
            self._flush()
        self._device = matrix if self._device is None else self._device + matrix
        self._pixels += pixels

    def merge(self, other: "ConfusionState") -> None:
        """Adds what another state has counted."""
        self._host = self.matrix + other.matrix

    @property
    def matrix(self) -> np.ndarray:
        """All that was counted: int64 [C + 1, C + 1], a copy."""
        self._flush()
        return self._host.copy()

    def _flush(self) -> None:
        if self._device is not None:
            self._host += np.asarray(self._device, np.int64)
        self._device, self._pixels = None, 0
