"""Seen and unseen means; the recorded cases are in test_mmseg.py."""

import numpy as np
import pytest

from ovseg_jax.metrics.zero_shot import harmonic_mean, seen_unseen


def test_harmonic_mean():
    assert harmonic_mean(91.9, 77.8) == pytest.approx(84.3, abs=0.05)  # ZegCLIP, VOC
    assert harmonic_mean(50, 0) == 0 and harmonic_mean(0, 0) == 0
    assert np.isnan(harmonic_mean(np.nan, 1))


def test_groups_share_one_prediction():
    matrix = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    scores = seen_unseen(matrix, seen=[0], unseen=[1])
    assert scores["mIoU_seen"] == 75 and scores["mIoU_unseen"] == pytest.approx(200 / 3)
    assert scores["mIoU"] == pytest.approx((75 + 200 / 3) / 2)
    assert scores["aAcc"] == pytest.approx(100 * 10 / 12)
    assert scores["hIoU"] == pytest.approx(2 * 75 * 200 / 3 / (75 + 200 / 3))


def test_rounding_comes_before_the_harmonic_mean():
    matrix = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    scores = seen_unseen(matrix, [0], [1], digits=2)
    assert scores["mIoU_unseen"] == 66.67
    assert scores["hIoU"] == harmonic_mean(75, 66.67)


def test_no_unseen_classes_is_nan():
    scores = seen_unseen(np.eye(3, dtype=np.int64), [0, 1], [])
    assert scores["mIoU_seen"] == 100
    assert np.isnan(scores["mIoU_unseen"]) and np.isnan(scores["hIoU"])
