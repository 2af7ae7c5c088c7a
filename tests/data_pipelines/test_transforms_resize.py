"""Resizing in parts equals cutting the part out of the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.transforms.resize import Window, resize_antialiased, resize_nearest

SIDES = st.integers(1, 90)


@st.composite
def resizing(draw):
    """A size before, one after, and a window of the latter."""
    before, after = (draw(SIDES), draw(SIDES)), (draw(SIDES), draw(SIDES))
    top, left = draw(st.integers(0, after[0] - 1)), draw(st.integers(0, after[1] - 1))
    height, width = draw(st.integers(1, after[0] - top)), draw(st.integers(1, after[1] - left))
    return before, after, Window(top, left, height, width)


@given(resizing())
@settings(max_examples=150, deadline=None)
def test_a_window_has_the_pixels_of_the_whole(case):
    before, after, window = case
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*before, 3), dtype=np.uint8)
    whole = Image.fromarray(image).resize(after[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(
        resize_antialiased(image, after, window), window.cut(np.asarray(whole))
    )
    np.testing.assert_array_equal(resize_antialiased(image, after), np.asarray(whole))
    label = rng.integers(0, 256, before, dtype=np.uint8)
    np.testing.assert_array_equal(
        resize_nearest(label, after, window), window.cut(resize_nearest(label, after))
    )


@pytest.mark.parametrize(("before", "after"), [(427, 640), (640, 427), (3, 9), (90, 31)])
def test_nearest_takes_the_floor_in_single_precision(before, after):
    label = np.arange(before, dtype=np.int32)[:, None]
    scale = np.float32(before) / np.float32(after)
    wanted = [min(int(np.float32(place) * scale), before - 1) for place in range(after)]
    assert resize_nearest(label, (after, 1))[:, 0].tolist() == wanted
