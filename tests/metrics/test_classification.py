import jax
import numpy as np

from ovseg_jax.metrics.classification import accuracy, class_accuracy, count_hits

LOGITS = np.float32([[3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3], [1, 1, 0, 0], [9, 9, 9, 9]])
LABELS = np.array([0, 1, 0, 1, 255])


def test_counts_are_by_class():
    count = jax.jit(count_hits, static_argnums=2)
    first, second = count(LOGITS, LABELS, 1), count(LOGITS, LABELS, 2)
    np.testing.assert_array_equal(first.pictures, [2, 2, 0, 0])
    np.testing.assert_array_equal(first.hits, [1, 0, 0, 0])  # of equal ones the first
    np.testing.assert_array_equal(second.hits, [1, 2, 0, 0])
    np.testing.assert_array_equal(count(LOGITS, LABELS, 9).hits, [2, 2, 0, 0])


def test_accuracies_of_pictures_and_classes():
    counts = count_hits(LOGITS, LABELS, 2)
    assert accuracy(counts) == 75 and accuracy(counts, [0]) == 50
    assert np.isnan(accuracy(counts, [3]))
    np.testing.assert_array_equal(class_accuracy(counts), [50, 100, 0, 0])
