"""Work that is done for the rows that need it alone, though shapes are static."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def map_valid(
    function: Callable[[jax.Array], jax.Array], valid: jax.Array, at_once: int, fill: float = 0.0
) -> jax.Array:
    """Applies a function to the valid rows, a few at a time.

    The loop ends with the last valid row. How many there are is data: another number takes another
    time and compiles nothing anew. At most `at_once - 1` other rows are computed in vain.

    Args:
      function: indices of rows int32 [n] -> what it makes of them, [n, ...].
      valid: bool [N].
      at_once: n, at most N.
      fill: of the other rows.

    Returns:
      [N, ...] of the dtype of the function.
    """
    at_once = min(at_once, len(valid))
    order = jnp.argsort(~valid, stable=True).astype(jnp.int32)
    steps = (valid.sum() + at_once - 1) // at_once
    result = jax.eval_shape(function, order[:at_once])

    def add(step, found):
        # A last slice that would reach beyond the rows begins earlier: some come twice, none never.
        rows = jax.lax.dynamic_slice_in_dim(order, step * at_once, at_once)
        return found.at[rows].set(function(rows))

    zeros = jnp.zeros((len(valid), *result.shape[1:]), result.dtype)
    found = jax.lax.fori_loop(0, steps, add, zeros)
    return jnp.where(valid.reshape(-1, *(1,) * (found.ndim - 1)), found, fill)
