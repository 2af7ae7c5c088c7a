"""Sliding windows cover the axis, and the traced starts follow the rule of mmsegmentation."""

import jax
import numpy as np
import pytest

from ovseg_jax.ops.windows import num_windows, window_exists, window_starts


def reference_starts(size, crop, stride):
    starts = []
    for index in range(max(size - crop + stride - 1, 0) // stride + 1):
        end = min(index * stride + crop, size)
        starts.append(max(end - crop, 0))
    return starts


@pytest.mark.parametrize(("crop", "stride"), [(64, 53), (16, 16), (10, 3)])
def test_follow_the_rule_at_every_size(crop, stride):
    count = num_windows(200, crop, stride)
    starts = jax.jit(lambda size: window_starts(size, count, crop, stride))
    exists = jax.jit(lambda size: window_exists(size, count, crop, stride))
    for size in range(1, 201):
        expected = reference_starts(size, crop, stride)
        assert num_windows(size, crop, stride) == len(expected)
        np.testing.assert_array_equal(starts(size)[: len(expected)], expected)
        np.testing.assert_array_equal(exists(size), np.arange(count) < len(expected))
