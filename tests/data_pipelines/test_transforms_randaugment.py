"""RandAugment's draws; its operations are compared with recorded pixels in parity."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.transforms import randaugment
from data_pipelines.transforms.randaugment import Operation


def draws(step, count):
    return [step.draw(np.random.default_rng(seed), {}) for seed in range(count)]


def test_operations_are_drawn_with_replacement_and_half_of_them_applied():
    found = draws(randaugment.RandAugment(operations=4), 500)
    operations = [operation for drawn in found for operation in drawn]
    assert {operation.name for operation in operations} == set(randaugment.OPERATIONS)
    assert 0.45 < len(operations) / 2000 < 0.55
    assert any(len({o.name for o in drawn}) < len(drawn) for drawn in found)
    assert 0.4 < np.mean([operation.negative for operation in operations]) < 0.6


def test_levels_are_normal_and_clipped():
    step = randaugment.RandAugment(operations=4, deviation=1.0)
    levels = np.array([operation.level for drawn in draws(step, 300) for operation in drawn])
    assert levels.max() == 10.0 and 8.8 < np.median(levels) < 9.2


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
@pytest.mark.parametrize("level", [0.0, 10.0])
def test_the_ends_of_the_scale_are_possible(name, level):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    for negative in (False, True):
        operation = Operation(name, level, negative)
        changed = np.asarray(randaugment.apply_operation(image, operation, (124, 116, 104)))
        assert changed.shape == (20, 24, 3) and changed.dtype == np.uint8
        if name == "PosterizeIncreasing" and level == 10:
            assert not changed.any()
        if level == 0 and name not in ("AutoContrast", "Equalize", "Invert", "PosterizeIncreasing"):
            np.testing.assert_array_equal(changed, np.asarray(image))


def test_the_corner_that_is_left_takes_the_fill_colour():
    image = Image.fromarray(np.zeros((20, 24, 3), np.uint8))
    operation = Operation("TranslateXRel", 10.0, False)
    moved = np.asarray(randaugment.apply_operation(image, operation, (124, 116, 104)))
    assert moved[0, -1].tolist() == [124, 116, 104] and moved[0, 0].tolist() == [0, 0, 0]
