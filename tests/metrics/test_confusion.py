"""The confusion matrix counts every pixel that counts, once, and does not overflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.metrics.confusion import ConfusionState, confusion_matrix, most_confused


@pytest.mark.parametrize("ignore", [255, 2, -1])
def test_equals_a_loop(ignore):
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 3, 7, 255, -1], (9, 11))
    prediction = rng.choice([0, 1, 2, 3, 4, 9, -5], (9, 11))
    expected = np.zeros((5, 5), int)
    for truth, guess in zip(label.ravel(), prediction.ravel(), strict=True):
        if truth != ignore:
            row = truth if 0 <= truth < 4 else 4
            expected[row, guess if 0 <= guess < 4 else 4] += 1
    matrix = jax.jit(confusion_matrix, static_argnums=(2, 3))(label, prediction, 4, ignore)
    np.testing.assert_array_equal(matrix, expected)


def test_state_sums_beyond_32_bits():
    state = ConfusionState(1)
    large = jnp.array([[2**30, 0], [0, 1]], jnp.int32)
    for _ in range(5):
        state.update(large, pixels=2**30 + 1)
    other = ConfusionState(1)
    other.update(large, pixels=2**30 + 1)
    state.merge(other)
    np.testing.assert_array_equal(state.matrix, [[6 * 2**30, 0], [0, 6]])
    assert state.matrix.dtype == np.int64


def test_state_refuses_other_class_counts():
    with pytest.raises(ValueError, match="3 classes"):
        ConfusionState(3).update(jnp.zeros((3, 3), jnp.int32), pixels=0)


def test_most_confused():
    matrix = np.array([[50, 0, 7, 9], [2, 90, 3, 0], [7, 0, 10, 0], [99, 0, 0, 0]])
    assert most_confused(matrix, 3) == [(0, 2, 7), (2, 0, 7), (1, 2, 3)]
    assert len(most_confused(matrix, 99)) == 4  # what never happened is no error
