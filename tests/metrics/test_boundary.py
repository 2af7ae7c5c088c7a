"""Boundary IoU against masks that are eroded one by one."""

import functools

import jax
import numpy as np
import pytest
from scipy.ndimage import binary_erosion, minimum_filter

from ovseg_jax.metrics import boundary, mmseg

CLASSES = 4


def maps(seed, shape=(60, 90)):
    """Blocks of classes, and a prediction that is the same a little to the right."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, CLASSES, (6, 9)), np.ones((10, 10), int))[
        : shape[0], : shape[1]
    ]
    prediction = np.roll(label, 1, axis=1)
    label[20:25, 30:45] = 255
    return label.astype(np.uint8), prediction.astype(np.uint8)


def edge(mask, distance):
    return mask & ~binary_erosion(mask, np.ones((3, 3)), distance, border_value=0)


@pytest.mark.parametrize("shape", [(60, 90), (3, 4)])
def test_equals_masks_eroded_one_by_one(shape):
    label, prediction = maps(0, shape)
    distance = max(1, round(0.02 * np.hypot(*shape)))
    assert boundary.boundary_distance(shape) == distance
    expected = np.full(CLASSES, np.nan)
    for index in range(CLASSES):
        kept = label != 255
        true = edge(label == index, distance) & kept
        found = edge(prediction == index, distance) & kept
        if (true | found).any():
            expected[index] = (true & found).sum() / (true | found).sum()
    count = jax.jit(boundary.boundary_confusion, static_argnums=(2, 3))
    matrix = np.asarray(count(label, prediction, CLASSES, 255))
    np.testing.assert_allclose(mmseg.scores(matrix)["IoU"], expected)


def test_a_batch_is_the_sum_of_its_images():
    labels, predictions = map(np.stack, zip(*map(maps, range(3)), strict=True))
    count = functools.partial(boundary.boundary_confusion, num_classes=CLASSES)
    parts = [count(*pair) for pair in zip(labels, predictions, strict=True)]
    np.testing.assert_array_equal(count(labels, predictions), sum(parts))


@pytest.mark.parametrize("ignore", [CLASSES, -1])
def test_the_ignore_label_may_be_any(ignore):
    label, prediction = maps(1)
    expected = boundary.boundary_confusion(label, prediction, CLASSES)
    other = np.where(label == 255, ignore, label.astype(int))
    ours = boundary.boundary_confusion(other, prediction, CLASSES, ignore)
    np.testing.assert_array_equal(ours, expected)


def test_images_of_several_sizes_on_one_canvas():
    sizes, distances = [(60, 90), (43, 70)], [3, 2]
    inside = np.zeros((2, 64, 96), bool)
    labels, predictions = np.zeros((2, 2, 64, 96), int)
    alone = []
    for index, (size, distance) in enumerate(zip(sizes, distances, strict=True)):
        own = np.s_[index, : size[0], : size[1]]
        labels[own], predictions[own] = maps(index, size)
        inside[own] = True
        alone.append(
            boundary.boundary_confusion(labels[own], predictions[own], CLASSES, distance=distance)
        )
    count = jax.jit(boundary.boundary_confusion, static_argnums=2)
    matrix = count(labels, predictions, CLASSES, distance=np.array(distances), inside=inside)
    np.testing.assert_array_equal(matrix[:-1], np.sum(alone, axis=0)[:-1])
    np.testing.assert_array_equal(matrix[:, :-1], np.sum(alone, axis=0)[:, :-1])


def test_perfect_prediction_has_no_error():
    label, _ = maps(2)
    matrix = np.asarray(boundary.boundary_confusion(label, label, CLASSES))
    np.testing.assert_array_equal(mmseg.scores(matrix)["IoU"], np.ones(CLASSES))


def test_label_differences_of_detectron2():
    label, prediction = maps(3)
    lowest = minimum_filter(label, 5, mode="constant", cval=0)
    np.testing.assert_array_equal(boundary.label_difference(label, 2), label - lowest)
    count = jax.jit(boundary.label_difference_confusion, static_argnums=(2, 3))
    matrix = np.asarray(count(label, prediction, CLASSES, 255))
    assert matrix.sum() == label.size
    iou = boundary.label_difference_iou(matrix)
    assert iou.shape == (CLASSES,) and (iou < 1).all()
