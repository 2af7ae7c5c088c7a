"""The scores of mmsegmentation, recorded and at the edges of the definitions."""

from pathlib import Path

import numpy as np
import pytest

from ovseg_jax.metrics import mmseg
from ovseg_jax.parity.runner import compare_file

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    "name",
    [
        "metrics/mmseg_iou.npz",
        "metrics/zegclip_seen_unseen.npz",
        "zegclip/metrics.npz",
        "zegclip/metrics_reduce_zero.npz",
    ],
)
def test_equals_recorded(name):
    rows = compare_file(GOLDEN / name)
    assert rows
    for row in rows:
        assert row.ok, row


def matrix(*pixels, classes=3):
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for label, prediction in pixels:
        counts[label, prediction] += 1
    return counts


def test_predicted_but_never_labelled_counts_as_zero():
    values = mmseg.scores(matrix((0, 0), (0, 1)))
    np.testing.assert_array_equal(values["IoU"], [0.5, 0, np.nan])
    np.testing.assert_array_equal(values["Acc"], [0.5, np.nan, np.nan])
    assert mmseg.summary(matrix((0, 0), (0, 1)))["mIoU"] == 25


def test_label_beyond_the_classes_lowers_iou_only():
    values = mmseg.scores(matrix((0, 0), (3, 0)))
    assert values["IoU"][0] == 0.5 and values["Acc"][0] == 1 and values["aAcc"] == 1


def test_class_without_a_hit_has_no_fscore():
    values = mmseg.scores(matrix((0, 1), (1, 0)))
    assert np.isnan(values["Fscore"][0]) and values["Dice"][0] == 0


def test_nothing_counted_is_nan_not_a_crash():
    values = mmseg.summary(matrix())
    assert all(np.isnan(value) for value in values.values())


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_reduce_zero_label(dtype):
    label = np.array([0, 1, 2, 254, 255], dtype)
    reduced = mmseg.reduce_zero_label(label)
    np.testing.assert_array_equal(reduced, [255, 0, 1, 253, 255])
    assert reduced.dtype == dtype and label[0] == 0


def test_label_map_is_applied_in_place():
    label = np.array([0, 1, 2])
    np.testing.assert_array_equal(mmseg.map_labels(label, {0: 1, 1: 3}), [3, 3, 2])
    np.testing.assert_array_equal(mmseg.map_labels(label, {1: 3, 0: 1}), [1, 3, 2])


def test_pictures_of_their_own():
    right, wrong = matrix((0, 0), (1, 1), (1, 0)), matrix((0, 2), (0, 2))
    scores = np.asarray(mmseg.picture_mean_iou(np.stack([right, wrong, np.zeros_like(right)])))
    np.testing.assert_allclose(scores[:2], [0.5, 0])
    assert np.isnan(scores[2])
    assert scores[0] == pytest.approx(np.nanmean(mmseg.scores(right)["IoU"]))
