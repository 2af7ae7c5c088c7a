"""Functions of valid rows alone, against all rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.ops.valid_rows import map_valid

VALUES = jax.random.normal(jax.random.key(0), (11, 3))


def some(count):
    """Bool [11] with so many True, here and there."""
    return jnp.zeros(len(VALUES), bool).at[jnp.arange(count) * 7 % len(VALUES)].set(True)


@pytest.mark.parametrize("at_once", [1, 4, 11, 50])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 11])
def test_valid_rows_get_their_own_result_and_the_others_the_fill(count, at_once):
    valid = some(count)
    found = jax.jit(lambda valid: map_valid(lambda rows: 2 * VALUES[rows], valid, at_once, -5.0))(
        valid
    )
    np.testing.assert_array_equal(found, jnp.where(valid[:, None], 2 * VALUES, -5.0))


def test_other_rows_cost_nothing_and_compile_nothing_anew():
    calls, traces = [], 0

    @jax.jit
    def mapped(valid):
        nonlocal traces
        traces += 1

        def function(rows):
            jax.debug.callback(lambda rows: calls.append(len(rows)), rows)
            return VALUES[rows]

        return map_valid(function, valid, 4)

    for count, steps in ((0, 0), (1, 1), (4, 1), (5, 2), (11, 3)):
        calls.clear()
        jax.block_until_ready(mapped(some(count)))
        jax.effects_barrier()
        assert calls == [4] * steps
    assert traces == 1
