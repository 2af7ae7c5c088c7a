import math

import numpy as np
import pytest

from ovseg_jax.report.gallery import Example, Gallery


def shown(scores, count):
    fetched = []

    def fetch(number, score):
        fetched.append(number)
        return Example(np.zeros((1, 1, 3), np.uint8), *[np.full((1, 1), number)] * 2, score)

    gallery = Gallery(count)
    for number, score in enumerate(scores):
        gallery.offer(score, lambda n=number, s=score: fetch(n, s))
    sections = gallery.sections()
    return [[int(e.truth[0, 0]) for e in examples] for examples in sections.values()], fetched


def test_the_first_the_best_and_the_worst():
    scores = [50.0, 10.0, 90.0, math.nan, 10.0, 95.0, 40.0]
    (first, best, worst), fetched = shown(scores, 2)
    assert first == [0, 1]
    assert best == [5, 2]
    assert worst == [1, 4]
    assert fetched == [0, 1, 2, 4, 5]  # each at most once, and none in vain


@pytest.mark.parametrize(("scores", "count"), [([], 3), ([1.0, 2.0], 0), ([math.nan], 0)])
def test_nothing_to_show(scores, count):
    assert shown(scores, count) == ([[], [], []], [])


def test_best_and_worst_are_few():
    sections, _ = shown(np.random.default_rng(0).random(100).tolist(), 24)
    assert [len(section) for section in sections] == [24, 6, 6]


def test_pictures_without_a_label_are_neither_best_nor_worst():
    assert shown([math.nan, 3.0], 1)[0] == [[0], [1], [1]]
