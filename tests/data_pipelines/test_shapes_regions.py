"""(scene, class) pairs of the embedded world."""

import numpy as np
import pytest

from data_pipelines.sources import create_source
from data_pipelines.sources.shapes import SEEN, UNSEEN, ShapesSource
from ovseg_jax.errors import UserError

SIZE = 40


def regions(**options):
    return create_source({"name": "shapes_regions", "split": "validation", "size": SIZE} | options)


def test_a_pair_is_a_class_of_its_scene():
    scenes, source = ShapesSource(split="validation", size=SIZE), regions()
    for index in range(SIZE):
        pair, scene = source[index], scenes[index]
        np.testing.assert_array_equal(pair["image"], scene["image"])
        np.testing.assert_array_equal(pair["label"], scene["label"] == pair["class_id"])
        assert pair["label"].any() and pair["class_id"].dtype == np.int32
    assert len({int(source[index]["class_id"]) for index in range(SIZE)}) > 10


@pytest.mark.parametrize(("subset", "classes"), [("seen", SEEN), ("unseen", UNSEEN)])
def test_a_scene_without_the_classes_makes_room_for_another(subset, classes):
    scenes, source = ShapesSource(split="validation", size=20 * SIZE), regions(subset=subset)
    for index in range(SIZE):
        pair = source[index]
        assert pair["class_id"] in classes and pair["label"].any()
        candidates = (scenes[number] for number in range(index, len(scenes), SIZE))
        first = next(scene for scene in candidates if np.isin(scene["label"], classes).any())
        np.testing.assert_array_equal(pair["image"], first["image"])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="unknown subset 'novel'"):
        regions(subset="novel")
    with pytest.raises(UserError, match="must be positive"):
        regions(size=0)
    with pytest.raises(UserError, match="unknown split"):
        regions(split="val")
    with pytest.raises(IndexError):
        regions()[SIZE]
