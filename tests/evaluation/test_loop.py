"""How pictures of many shapes become batches."""

import itertools

import numpy as np

from ovseg_jax.evaluation.loop import _WAITING, _groups
from ovseg_jax.inference import Protocol


def groups(sides, batch_size):
    examples = (
        {"image": np.zeros((8, side, 3), np.uint8), "number": n, "valid": side > 0}
        for n, side in enumerate(sides)
    )
    found = _groups(examples, Protocol(patch=1), batch_size, lambda example: None)
    return [[example["number"] for _, example in group] for group in found]


def test_pictures_wait_for_others_of_their_shape():
    assert groups([4, 5, 4, 5, 5, 0, 4], 2) == [[0, 2], [1, 3], [4], [6]]


def test_pictures_of_many_shapes_do_not_pile_up():
    most = 2 * _WAITING
    sides = [4, *range(4, 4 + most)]  # of the first shape there are two, below the three of a batch
    found = groups(sides, 3)
    assert sorted(itertools.chain(*found)) == list(range(len(sides)))
    found = groups([*sides, *range(100, 100 + most)], 3)
    assert sorted(itertools.chain(*found)) == list(range(len(sides) + most))
    assert found[0] == [0, 1]  # the largest group goes first, long before the end
