import io

import numpy as np
from PIL import Image

from ovseg_jax.report.colors import NO_CLASS, colorize, label_png, palette, picture_colors


def test_palettes_are_distinct_and_agree_with_each_other():
    large = palette(900)
    assert len(np.unique(large, axis=0)) == 900
    assert np.array_equal(large[:20], palette(20))
    assert palette(1).shape == (1, 3)
    near = np.abs(large[:60, None].astype(int) - large[None, :60]).sum(-1) + 999 * np.eye(60)
    assert near.min() > 40


def test_classes_of_one_picture_are_told_apart():
    colors = palette(400).astype(int)
    gaps = np.abs(colors[:, None] - colors[None]).sum(-1) + 9999 * np.eye(400, dtype=int)
    first, second = np.unravel_index(gaps.argmin(), gaps.shape)
    chosen = picture_colors([int(first), int(second)], 400).astype(int)
    assert np.array_equal(chosen[first], colors[first])
    assert np.abs(chosen[first] - chosen[second]).sum() > 90 > gaps.min()
    others = np.delete(np.arange(400), second)
    assert np.array_equal(chosen[others], colors[others])
    crowd = picture_colors(range(200), 400)
    assert len(np.unique(crowd[:20], axis=0)) == 20


def test_labels_without_a_class_are_grey():
    painted = colorize(np.asarray([[0, 5, -1, 255]]), palette(5))
    assert np.array_equal(painted[0, 0], palette(5)[0])
    assert all(tuple(pixel) == NO_CLASS for pixel in painted[0, 1:])


def test_label_files_hold_numbers_and_colours():
    labels = np.asarray([[0, 1], [2, 300]])
    picture = Image.open(io.BytesIO(label_png(labels, 3)))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), [[0, 1], [2, 255]])
    assert np.array_equal(np.asarray(picture.convert("RGB")), colorize(labels, palette(3)))
    picture = Image.open(io.BytesIO(label_png(labels, 301)))
    assert np.array_equal(np.asarray(picture), labels)
    picture = Image.open(io.BytesIO(label_png(np.asarray([[-1, 4]]), 301)))
    assert np.array_equal(np.asarray(picture), [[65535, 4]])
