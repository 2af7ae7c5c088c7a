"""Crops around a class; boxes and centres are compared with recorded ones in parity."""

import numpy as np
import pytest

from data_pipelines.transforms.regions import CropToClass, CutCenter, class_window
from data_pipelines.transforms.resize import Window
from ovseg_jax.errors import UserError


def example(top, left, bottom, right):
    label = np.zeros((20, 30), np.uint8)
    label[top, left] = label[bottom - 1, right - 1] = 1
    label[0, 0] = 255 if label[0, 0] == 0 else 1
    image = np.arange(20 * 30 * 3, dtype=np.uint16).astype(np.uint8).reshape(20, 30, 3)
    return {"image": image, "label": label, "path": "a.jpg"}


def test_image_and_label_are_cut_to_the_class():
    given = example(3, 5, 9, 20)
    cut = CropToClass().apply(given, None)
    np.testing.assert_array_equal(cut["image"], given["image"][3:9, 5:20])
    np.testing.assert_array_equal(cut["label"], given["label"][3:9, 5:20])


def test_a_box_at_the_far_borders_loses_a_pixel():
    mask = np.zeros((20, 30), bool)
    mask[10:, 7:] = True
    assert class_window(mask) == Window(10, 7, 9, 22)
    corner = np.zeros((20, 30), bool)
    corner[19, 29] = True
    assert class_window(corner) == Window(19, 29, 1, 1)


def test_an_expanded_box_is_truncated():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:13] = True  # centre 6.5, 11.5
    assert class_window(mask, 1.5) == Window(2, 9, 7, 4)  # 2.75 + 7.5, 9.25 + 4.5


def test_a_label_without_the_class_is_an_error():
    given = example(3, 5, 9, 20)
    given["label"][:] = 0
    with pytest.raises(UserError, match=r"a.jpg has no pixel of the class"):
        CropToClass().apply(given, None)


@pytest.mark.parametrize(("side", "size", "start"), [(30, 12, 9), (30, 11, 10), (31, 10, 10)])
def test_the_middle_is_cut_out_at_even_halves(side, size, start):
    image = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None], (side, side, 3))
    cut = CutCenter((size, size)).apply({"image": image}, None)["image"]
    np.testing.assert_array_equal(cut[:, 0, 0], np.arange(start, start + size))


def test_what_is_smaller_is_filled_up_around():
    given = {"image": np.full((3, 8, 3), 9, np.uint8), "label": np.ones((3, 8), np.uint8)}
    cut = CutCenter((6, 4)).apply(given, None)
    np.testing.assert_array_equal(cut["image"][:, 0, 0], [0, 9, 9, 9, 0, 0])
    np.testing.assert_array_equal(cut["label"][:, 0], [255, 1, 1, 1, 255, 255])
    assert cut["image"].shape == (6, 4, 3)
