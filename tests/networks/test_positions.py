import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.networks.positions import resize_positions, sine_positions


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


def test_offset_changes_the_step_and_keeps_the_class_row():
    """Against the formula for a single output row, A = -0.75 and borders clamped."""
    table = jax.random.normal(jax.random.key(1), (1 + 16, 3))
    resized = resize_positions(table, (4, 6), offset=0.1)
    np.testing.assert_array_equal(resized[0], table[0])
    grid = np.asarray(table[1:], np.float64).reshape(4, 4, 3)
    for axis, size in enumerate((4, 6)):
        grid = np.moveaxis(cubic_rows(np.moveaxis(grid, axis, 0), size, 4 / (size + 0.1)), 0, axis)
    np.testing.assert_allclose(resized[1:].reshape(4, 6, 3), grid, atol=1e-5)
    assert np.abs(resized - resize_positions(table, (4, 6))).max() > 0.02


def cubic_rows(rows, size, step):
    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    out = []
    for i in range(size):
        centre = (i + 0.5) * step - 0.5
        low = int(np.floor(centre))
        taps = range(low - 1, low + 3)
        out.append(sum(kernel(centre - t) * rows[np.clip(t, 0, len(rows) - 1)] for t in taps))
    return np.stack(out)


def test_the_caller_may_decide_whether_a_table_serves():
    table = jax.random.normal(jax.random.key(0), (17, 2))
    assert resize_positions(table, (2, 8), keep=True) is table
    assert not np.allclose(resize_positions(table, (4, 4), offset=0.1, keep=False), table)


def test_sine_positions_end_at_a_full_turn():
    table = np.asarray(sine_positions((3, 5), 8))
    assert table.shape == (3, 5, 8)
    rows, columns = table[..., :4], table[..., 4:]
    assert not np.ptp(rows, axis=1).any() and not np.ptp(columns, axis=0).any()
    angle = 2 * np.pi * np.arange(1, 6) / 5
    expected = np.stack([f(a) for a in (angle, angle / 100) for f in (np.sin, np.cos)], axis=-1)
    np.testing.assert_allclose(columns[0], expected, atol=1e-5)
