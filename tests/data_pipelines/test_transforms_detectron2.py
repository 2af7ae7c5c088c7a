"""The steps of detectron2's mappers; their pixels are compared with recorded ones in parity."""

import numpy as np
import pytest

from data_pipelines.loader import Loader
from data_pipelines.transforms import create_transforms, detectron2
from data_pipelines.transforms.mmseg import RandomCrop
from data_pipelines.transforms.resize import Window
from ovseg_jax.errors import UserError
from ovseg_jax.pictures import shortest_edge_size


def example(height=48, width=64):
    rng = np.random.default_rng(0)
    label = np.repeat(np.repeat(rng.integers(0, 5, (height // 8, width // 8)), 8, 0), 8, 1)
    label[:8] = 255
    return {
        "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "label": label.astype(np.uint8),
    }


def test_resizing_and_cropping_at_once_equals_one_after_the_other():
    given = example()
    both = detectron2.ResizeCrop((32, 60, 90), 100, (40, 48), single_category_max_area=0.4)
    crop = RandomCrop((40, 48), 0.4, attempts=10)
    resize = detectron2.ResizeShortestEdge((32, 60, 90), 100)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        one_by_one = crop(resize(given, rng), rng)
        at_once = both(given, np.random.default_rng(seed))
        np.testing.assert_array_equal(at_once["image"], one_by_one["image"])
        np.testing.assert_array_equal(at_once["label"], one_by_one["label"])


def test_the_long_side_is_limited():
    assert shortest_edge_size((100, 1000), 640, 2560) == (256, 2560)
    assert shortest_edge_size((333, 500), 640, 2560) == (640, 961)


def test_jitter_keeps_the_ratio_and_stays_in_the_box():
    step = detectron2.LargeScaleJitter((40, 40), (0.1, 2.0))
    shapes, scales = set(), []
    for seed in range(60):
        drawn = step.draw(np.random.default_rng(seed), example())
        height, width = drawn.size
        assert abs(height - 0.75 * width) <= 1
        assert (drawn.window.height, drawn.window.width) == (min(height, 40), min(width, 40))
        # One number places both axes.
        room = np.maximum(np.array(drawn.size) - 40, 0)
        share = np.array([drawn.window.top, drawn.window.left]) / np.maximum(room, 1)
        assert room.min() == 0 or abs(share[0] - share[1]) <= 1 / room.min()
        shapes.add(step.apply(example(), drawn)["image"].shape)
        scales.append(width / 40)
    assert min(scales) < 0.4 and max(scales) > 1.6 and len(shapes) > 10


def test_a_picture_that_shrinks_to_nothing_keeps_a_pixel():
    drawn = detectron2.LargeScaleJitter((32, 32), (0.1, 0.1)).draw(
        np.random.default_rng(0), {"image": np.zeros((2, 900, 3), np.uint8)}
    )
    assert drawn.window == Window(0, 0, 1, 3)


def test_classes_are_listed_in_order():
    label = np.array([[3, 3, 255], [0, 255, 3]], np.uint8)
    step = detectron2.PresentClasses(max_classes=3)
    classes = step.apply({"label": label}, None)["classes"]
    assert classes.tolist() == [0, 3, -1] and classes.dtype == np.int32
    assert step.apply({"label": np.full((2, 2), 255, np.uint8)}, None)["classes"].max() == -1


def test_more_classes_than_rows_are_an_error():
    with pytest.raises(UserError, match="has 5 classes, more than max_classes=4"):
        detectron2.PresentClasses(4)(example(), np.random.default_rng(0))


def test_the_hue_can_reach_its_largest_shift():
    draws = [detectron2.ColorSSD().draw(np.random.default_rng(s), {}).hue for s in range(600)]
    shifts = {shift for shift in draws if shift is not None}
    assert min(shifts) == -18 and max(shifts) == 18


def test_a_recipe_makes_batches():
    specs = [
        {"name": "resize_crop", "short_edges": (32, 56), "size": (40, 40)},
        {"name": "color_ssd"},
        {"name": "flip"},
        {"name": "pad", "size": (40, 40), "image_value": 128},
        {"name": "present_classes", "max_classes": 6},
    ]
    loader = Loader([example(), example(64, 48)], create_transforms(specs), 2, driver="threads")
    batch = next(loader.batches())
    assert batch["image"].shape == (2, 40, 40, 3) and batch["image"].dtype == np.uint8
    for label, classes in zip(batch["label"], batch["classes"], strict=True):
        assert classes.shape == (6,)
        assert set(classes[classes >= 0]) == set(np.unique(label)) - {255}
