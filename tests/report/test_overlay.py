import numpy as np
import pytest

from ovseg_jax.report.colors import palette
from ovseg_jax.report.overlay import enlargement, overlay, paint, present_classes


def test_shares_are_sorted_and_leave_out_ignored_pixels():
    labels = np.asarray([[2, 2, 0, 255]])
    assert present_classes(labels, 3) == [(2, 0.5), (0, 0.25)]


def test_paint_keeps_pixels_without_a_class_grey():
    image = np.full((4, 6, 3), (200, 40, 90), np.uint8)
    labels = np.full((4, 6), 255)
    labels[:, 3:] = 1
    painted = paint(image, labels, palette(2))
    assert np.ptp(painted[:, :3].astype(int), axis=-1).max() == 0
    grey = painted[0, 0].astype(float)
    np.testing.assert_allclose(painted[1, 5], 0.65 * palette(2)[1] + 0.35 * grey, atol=1)
    assert painted[1, 3].sum() < painted[1, 5].sum()  # the outline


@pytest.mark.parametrize("size", [(96, 96), (30, 96), (96, 12), (600, 900)])
def test_small_pictures_are_enlarged_by_a_whole_factor_and_have_a_legend(size):
    labels = np.zeros(size, np.int32)
    labels[size[0] // 2 :] = 1
    page = overlay(np.zeros((*size, 3), np.uint8), labels, ["sky", "a very long name " * 20])
    factor = enlargement(size)
    assert page.height > factor * size[0] and page.width >= factor * size[1]
    strip = np.asarray(page)[factor * size[0] :]
    for color in palette(2):
        assert (strip == color).all(-1).sum() > 50  # its chip
    assert (strip == (28, 30, 34)).all(-1).sum() > 50  # letters
    assert not (strip[:, -6:] != 255).any()  # nothing runs over the edge


def test_many_classes_and_none():
    labels = np.arange(10000).reshape(100, 100) % 60
    image = np.zeros((100, 100, 3), np.uint8)
    many = overlay(image, labels, [f"name {k}" for k in range(60)], unseen={3})
    assert many.height > 512
    assert overlay(image, np.full((100, 100), 255), ["sky"]).height > 500
