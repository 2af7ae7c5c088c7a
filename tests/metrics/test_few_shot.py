"""Counts of binary maps and their two read-outs; recorded cases are in tests/parity."""

import jax
import numpy as np
import pytest

from ovseg_jax.metrics import few_shot


def episodes(seed, count=6):
    rng = np.random.default_rng(seed)
    prediction, target = rng.integers(0, 2, (2, count, 7, 9))
    return prediction, target, rng.random((count, 7, 9)) < 0.2


def loop(prediction, target, ignored):
    intersection, union = np.zeros((2, len(prediction), 2), int)
    for episode in range(len(prediction)):
        kept = ~ignored[episode]
        for value in (0, 1):
            p, t = prediction[episode][kept] == value, target[episode][kept] == value
            intersection[episode, value], union[episode, value] = (p & t).sum(), (p | t).sum()
    return intersection, union


def test_counts_equal_a_loop():
    prediction, target, ignored = episodes(0)
    counts = jax.jit(few_shot.episode_counts)(prediction, target, ignored)
    for ours, expected in zip(counts, loop(prediction, target, ignored), strict=True):
        np.testing.assert_array_equal(ours, expected)
    plain = few_shot.episode_counts(prediction != 0, target)
    for ours, expected in zip(plain, loop(prediction, target, ignored & False), strict=True):
        np.testing.assert_array_equal(ours, expected)


def counts(*rows):
    intersection, union = np.array(rows).swapaxes(0, 1)
    return few_shot.Counts(intersection, union)


def test_sums_are_by_class():
    parts = counts(([1, 2], [3, 4]), ([5, 6], [7, 8]), ([1, 1], [1, 1]))
    sums = few_shot.sum_by_class(parts, np.array([2, 0, 2]), 3)
    np.testing.assert_array_equal(sums.intersection, [[5, 6], [0, 0], [2, 3]])
    np.testing.assert_array_equal(sums.union, [[7, 8], [0, 0], [4, 5]])
    assert sums.union.dtype == np.int64
    scored = few_shot.sum_by_class(parts, np.array([2, 0, 2]), 3, [True, False, False])
    np.testing.assert_array_equal(scored.union, [[0, 0], [0, 0], [3, 4]])


def test_a_class_without_episodes_counts_for_hsnet_only():
    sums = counts(([6, 2], [8, 4]), ([0, 0], [0, 0]), ([9, 9], [9, 9]))
    assert few_shot.hsnet(sums, [0, 1]) == {"mIoU": 25, "FB-IoU": 62.5}
    fold = few_shot.Counts(*(part[:2] for part in sums))
    assert few_shot.fusioner(fold) == {"mIoU": 50, "FB-IoU": 62.5}


def test_iou_of_a_class_that_is_absent():
    sums = counts(([6, 2], [8, 4]), ([9, 0], [9, 0]))
    np.testing.assert_array_equal(few_shot.class_iou(sums, absent=0.0), [0.5, 0])
    np.testing.assert_array_equal(few_shot.class_iou(sums, absent=np.nan), [0.5, np.nan])


def test_nothing_counted_is_nan_not_a_crash():
    empty = counts(([0, 0], [0, 0]))
    assert all(np.isnan(value) for value in few_shot.fusioner(empty).values())
    assert few_shot.hsnet(empty, [0])["mIoU"] == 0


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([0.0], [0]), ([0.1], [1]), ([-1.0, 2.0, 2.0], [0, 1, 0]), ([-1.0, 0.0], [0, 0])],
)
def test_the_first_most_probable_class_above_one_half_wins(logits, expected):
    np.testing.assert_array_equal(few_shot.foreground(np.float32(logits)), np.array(expected) > 0)
