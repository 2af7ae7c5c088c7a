"""Matching of segments; recorded cases are in tests/parity."""

import numpy as np
import pytest

from ovseg_jax.metrics.panoptic import (
    Counts,
    Segment,
    match_segments,
    quality,
    segment_ids,
    summary,
)


def count(label, prediction, labelled, predicted):
    counts = match_segments(np.array([label]), np.array([prediction]), labelled, predicted, 2)
    return counts.iou.tolist(), *(part.tolist() for part in counts[1:])


def test_ids_are_read_from_colours():
    assert segment_ids(np.uint8([[1, 2, 3]])) == 1 + 256 * 2 + 65536 * 3


def test_one_match_one_miss_one_invention():
    iou, tp, fp, fn = count(
        [5, 5, 5, 5, 6, 6],
        [9, 9, 9, 7, 8, 8],
        [Segment(5, 0), Segment(6, 1)],
        [Segment(9, 0), Segment(7, 0), Segment(8, 0)],
    )
    assert iou == [0.75, 0] and tp == [1, 0] and fp == [2, 0] and fn == [0, 1]


def test_half_is_no_match_and_void_is_no_part_of_the_union():
    half = count([5, 5], [9, 8], [Segment(5, 0)], [Segment(9, 0), Segment(8, 0)])
    assert half == ([0, 0], [0, 0], [2, 0], [1, 0])
    void = count([5, 0, 0], [9, 9, 9], [Segment(5, 0)], [Segment(9, 0)])
    assert void == ([1, 0], [1, 0], [0, 0], [0, 0])


@pytest.mark.parametrize(("category", "fp"), [(0, [0, 0]), (1, [0, 1])])
def test_what_lies_in_void_or_in_the_crowd_of_its_category_is_excused(category, fp):
    label, prediction = [5, 0, 6, 6], [9, 9, 9, 9]
    labelled = [Segment(5, 0, crowd=True), Segment(6, 0, crowd=True)]
    result = count(label, prediction, labelled, [Segment(9, category)])
    assert result == ([0, 0], [0, 0], fp, [0, 0])


@pytest.mark.parametrize("listed", [[], [Segment(9, 0), Segment(4, 0)]])
def test_map_and_list_must_agree(listed):
    with pytest.raises(ValueError, match=r"predicted segment [49] is only in"):
        count([5], [9], [Segment(5, 0)], listed)


def test_means_leave_out_absent_categories():
    counts = Counts(
        np.array([1.5, 0, 0, 0.8]), np.array([2, 0, 0, 1]), np.array([1, 0, 1, 0]), np.zeros(4, int)
    )
    values = quality(counts)
    np.testing.assert_allclose(values["PQ"], [0.6, np.nan, 0, 0.8])
    np.testing.assert_allclose(values["SQ"], [0.75, np.nan, 0, 0.8])
    np.testing.assert_allclose(values["RQ"], [0.8, np.nan, 0, 1])
    means = summary(counts, np.array([True, True, False, False]))
    assert means["PQ"] == pytest.approx(140 / 3)
    assert means["PQ_things"] == pytest.approx(60) and means["PQ_stuff"] == pytest.approx(40)
