"""detectron2's rules at their edges; recorded cases are in tests/parity."""

import numpy as np
import pytest

from ovseg_jax.metrics import detectron2, mmseg


def loop(matrix, rule, classes):
    """The definitions, class by class: mIoU, fwIoU, mACC, pACC."""
    inside = matrix[:-1, :-1]
    iou, acc, weights, occurring = [], [], [], 0
    for c in classes:
        tp, gt, predicted = inside[c, c], inside[c].sum(), inside[:, c].sum()
        if rule == "legacy":
            occurring += gt + predicted > 0
        elif gt > 0:
            occurring += 1
        if gt > 0:
            iou.append(tp / (gt + predicted - tp))
            acc.append(tp / gt)
            weights.append(gt)
    hits = sum(inside[c, c] for c in classes)
    return [
        100 * sum(iou) / occurring,
        100 * np.dot(iou, weights) / sum(weights),
        100 * np.mean(acc),
        100 * hits / sum(weights),
    ]


def random_matrix(seed):
    matrix = np.random.default_rng(seed).integers(0, 50, (8, 8))
    matrix[[2, 5]] = 0  # never labelled
    matrix[:, [3, 5]] = 0  # never predicted
    return matrix


@pytest.mark.parametrize("rule", ["legacy", "current"])
@pytest.mark.parametrize("classes", [None, [0, 2, 4], [1, 3, 5, 6]])
def test_equals_a_loop(rule, classes):
    matrix = random_matrix(0)
    summary = detectron2.summary(matrix, rule, classes)
    expected = loop(matrix, rule, range(7) if classes is None else classes)
    assert list(summary.values()) == pytest.approx(expected)


def test_predicted_but_never_labelled_has_no_score():
    scores = detectron2.scores(random_matrix(1))
    for values in scores.values():
        np.testing.assert_array_equal(np.isnan(values), [0, 0, 1, 0, 0, 1, 0])
    assert scores["IoU"][3] == scores["Acc"][3] == 0


def test_ignored_pixels_may_be_in_the_matrix():
    matrix = random_matrix(2)
    without = matrix.copy()
    without[-1] = 0
    assert detectron2.summary(matrix) == detectron2.summary(without)


def test_legacy_is_the_mean_of_mmsegmentation():
    matrix = random_matrix(3)
    matrix[-1] = matrix[:, -1] = 0
    expected = mmseg.mean_percent(mmseg.scores(matrix)["IoU"])
    assert detectron2.summary(matrix, "legacy")["mIoU"] == expected
    assert detectron2.summary(matrix, "current")["mIoU"] > expected


def test_seen_and_unseen_are_read_off_one_prediction():
    matrix = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    scores = detectron2.seen_unseen(matrix, seen=[0], unseen=[1])
    assert scores["mIoU_seen"] == 75 and scores["mIoU_unseen"] == pytest.approx(200 / 3)
    assert scores["aAcc_seen"] == 75 and scores["aAcc_unseen"] == 100
    assert scores["hIoU"] == pytest.approx(2 / (1 / 75 + 3 / 200))


@pytest.mark.parametrize("rule", ["legacy", "current"])
def test_nothing_counted_is_nan_not_a_crash(rule):
    scores = detectron2.seen_unseen(np.zeros((3, 3), np.int64), [0, 1], [], rule)
    assert all(np.isnan(value) for value in scores.values())
