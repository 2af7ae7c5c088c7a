"""Which pictures of an evaluation are shown: the first ones, the best and the worst."""

import functools
import heapq
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_EXTREMES = 6  # best pictures, and as many worst ones


class Proposal(NamedTuple):
    """A region that was proposed as a whole.

    Attributes:
      mask: bool [H, W], of the picture's size.
      label: the class that fits it best.
      score: of that class, 1 at most.
    """

    mask: np.ndarray
    label: int
    score: float


class Example(NamedTuple):
    """One evaluated picture.

    Attributes:
      image: uint8 [H, W, 3].
      truth: int [H, W]; labels beyond the classes were not counted.
      prediction: int [H, W].
      score: mIoU of this picture alone, in percent; NaN without a labelled pixel.
      proposals: from which the prediction was made, the best first.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    score: float
    proposals: tuple[Proposal, ...] = ()


class Gallery:
    """The first, the best and the worst of a stream of pictures.

    Which are best is known at the end only. Of most pictures nothing but the score is looked at:
    two bounded heaps hold the best and the worst so far, and a picture is fetched from the device
    when it enters one of them, which late in the stream hardly any does.
    """

    def __init__(self, count: int):
        """Keeps the first `count` pictures, and of the best and the worst at most as many."""
        self._count = count
        self._first: list[Example] = []
        self._best, self._worst = (_Top(min(count, _EXTREMES)) for _ in range(2))

    def offer(self, score: float, fetch: Callable[[], Example]) -> None:
        """Shows a picture to the gallery, which keeps it or not.

        Args:
          score: by which pictures are ranked; one that is NaN can be among the first only.
          fetch: makes the picture; called at most once.
        """
        fetch = functools.cache(fetch)
        if len(self._first) < self._count:
            self._first.append(fetch())
        if not math.isnan(score):
            self._best.offer(score, fetch)
            self._worst.offer(-score, fetch)

    def sections(self) -> dict[str, list[Example]]:
        """The pictures kept, by heading; the best and the worst each begin with the extreme."""
        return {
            "Pictures": self._first,
            "Best pictures": self._best.examples(),
            "Worst pictures": self._worst.examples(),
        }


class _Top:
    """The `size` examples of highest rank; of equal ones those that came first."""

    def __init__(self, size: int):
        self._size = size
        self._order = itertools.count(0, -1)  # tells equal ranks apart: pictures have no order
        self._heap: list[tuple[float, int, Example]] = []

    def offer(self, rank: float, fetch: Callable[[], Example]) -> None:
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (rank, next(self._order), fetch()))
        elif self._heap and rank > self._heap[0][0]:
            heapq.heapreplace(self._heap, (rank, next(self._order), fetch()))

    def examples(self) -> list[Example]:
        return [example for *_, example in sorted(self._heap, key=lambda e: e[:2], reverse=True)]
