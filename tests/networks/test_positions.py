import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.networks.positions import resize_positions


def test_positions_keep_the_class_row_and_the_grid():
    table = jax.random.normal(jax.random.key(0), (10, 4))
    assert resize_positions(table, (3, 3)) is table
    resized = resize_positions(table, (2, 5), method="bilinear")
    assert resized.shape == (11, 4)
    np.testing.assert_array_equal(resized[0], table[0])
    # Columns of a table that grows downwards only stay equal within a row.
    ramp = jnp.repeat(jnp.arange(3.0), 3)[:, None]
    rows = resize_positions(jnp.concatenate([ramp[:1], ramp]), (3, 6), method="bilinear")
    np.testing.assert_allclose(rows[1:, 0].reshape(3, 6), np.arange(3)[:, None] * np.ones(6))
