"""Resizing equals PyTorch's, for recorded cases and by its defining properties."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.ops.resize import (
    METHODS,
    interpolation_matrix,
    resize,
    resize_axis,
    take_nearest,
    traced_bicubic_matrix,
    traced_bilinear_matrix,
)
from ovseg_jax.parity.runner import compare_file

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["clip/interpolate.npz", "zegclip/pos_embed.npz"])
def test_equals_recorded(name):
    rows = compare_file(GOLDEN / name)
    assert rows
    for row in rows:
        assert row.ok and row.max_abs < 4e-6, row


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("in_size", "out_size"), [(1, 1), (1, 7), (7, 1), (5, 13), (13, 5)])
def test_constants_stay(method, in_size, out_size):
    matrix = interpolation_matrix(in_size, out_size, method)
    assert matrix.shape == (out_size, in_size) and matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_nearest_takes_the_floor():
    index = interpolation_matrix(7, 3, "nearest").argmax(axis=1)
    np.testing.assert_array_equal(index, [0, 2, 4])


def test_labels_are_taken_as_the_matrix_does_in_their_dtype():
    labels = np.arange(2 * 7 * 5, dtype=np.uint8).reshape(2, 7, 5)
    taken = take_nearest(jnp.asarray(labels), (3, 9))
    assert taken.dtype == jnp.uint8
    rows, columns = (interpolation_matrix(*sizes, "nearest") for sizes in ((7, 3), (5, 9)))
    np.testing.assert_array_equal(taken, rows @ labels @ columns.T)


def test_aligned_corners_stay_in_place():
    for method in ("bilinear", "bicubic"):
        matrix = interpolation_matrix(5, 9, method, align_corners=True)
        np.testing.assert_allclose(matrix[::2], np.eye(5), atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "cubic"},
        {"in_size": 0},
        {"align_corners": True, "antialias": True},
        {"method": "nearest", "antialias": True},
        {"align_corners": True, "scale": 2.0},
    ],
)
def test_refuses(arguments):
    with pytest.raises(ValueError):
        interpolation_matrix(**{"in_size": 4, "out_size": 8} | arguments)


def test_matrix_cannot_be_spoilt():
    with pytest.raises(ValueError):
        interpolation_matrix(4, 8)[0, 0] = 1


def test_resize_leads_any_axes_and_keeps_the_dtype():
    x = jnp.arange(2 * 3 * 4 * 6 * 5, dtype=jnp.bfloat16).reshape(2, 3, 4, 6, 5)
    assert resize(x, (4, 6)) is x
    small = resize(x, (2, 9))
    assert small.shape == (2, 3, 2, 9, 5) and small.dtype == jnp.bfloat16


def test_resize_order_of_axes_does_not_matter():
    x = jax.random.normal(jax.random.key(0), (4, 9, 2))
    both = resize(x, (11, 3))
    one_by_one = resize_axis(resize_axis(x, 3, 1), 11, 0)
    np.testing.assert_allclose(both, one_by_one, atol=1e-5)


def test_traced_matrix_equals_the_static_one():
    build = jax.jit(traced_bilinear_matrix, static_argnums=(2, 3))
    sizes = [(1, 1), (1, 64), (64, 1), (64, 64), (33, 50), (50, 33), (7, 63), (61, 17)]
    for in_size, out_size in sizes:
        matrix = np.asarray(build(in_size, out_size, 64, 64))
        static = interpolation_matrix(in_size, out_size)
        # The position's last bit: XLA may fuse its multiplication and subtraction.
        np.testing.assert_allclose(matrix[:out_size, :in_size], static, atol=64 * 2**-23)
        assert not matrix[out_size:].any() and not matrix[:, in_size:].any()
    assert build._cache_size() == 1


def test_traced_matrix_maps_over_sizes():
    sizes = jnp.array([[3, 8], [8, 3]])
    matrices = jax.vmap(lambda pair: traced_bilinear_matrix(pair[0], pair[1], 8, 8))(sizes)
    np.testing.assert_allclose(matrices[0, :, :3], interpolation_matrix(3, 8), atol=1e-6)
    np.testing.assert_allclose(matrices[1, :3], interpolation_matrix(8, 3), atol=1e-6)


@pytest.mark.parametrize(("size", "new"), [(5, 10), (5, 15), (7, 49), (3, 41 * 3), (6, 9)])
def test_whole_factors_repeat_what_the_matrix_picks(size, new):
    x = np.random.default_rng(0).normal(size=(size, 2)).astype(np.float32)
    expected = interpolation_matrix(size, new, "nearest") @ x
    np.testing.assert_array_equal(resize_axis(jnp.asarray(x), new, 0, "nearest"), expected)


@pytest.mark.parametrize(("start", "length"), [(0, 30), (3, 20), (29, 1), (11, 2), (0, 5)])
def test_a_part_of_an_axis_is_resized_as_if_alone(start, length):
    matrix = jax.jit(lambda *part: traced_bicubic_matrix(*part, 30, 12))(start, length)
    expected = np.zeros((12, 30), np.float32)
    expected[:, start : start + length] = interpolation_matrix(length, 12, "bicubic")
    np.testing.assert_allclose(matrix, expected, atol=2e-6)
