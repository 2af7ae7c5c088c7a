"""(picture, class) pairs of a data set with labels, and the lists that they are read from."""

import json

import numpy as np
import pytest

from data_pipelines.datasets import find_dataset, prepare
from data_pipelines.sources import create_source
from data_pipelines.sources.class_masks import ClassPairs
from data_pipelines.sources.class_regions import draw_per_class
from ovseg_jax.errors import UserError

NAME = "voc_15_5_zsseg"
PICTURES = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    prepare("voc", folder, None, PICTURES)
    return folder


def regions(root, **options):
    options = dict(dataset=NAME, split="val") | options
    return create_source(dict(options, name="class_regions", root=str(root)))


def expected(root):
    """Names and classes of all pairs, from the labels themselves."""
    for example in map(find_dataset(NAME).open(str(root), "val").__getitem__, range(PICTURES)):
        for class_id in np.unique(example["label"]).tolist():
            if class_id != 255:
                yield example, class_id


def test_every_class_of_every_picture_is_an_example(root):
    source, pairs = regions(root), list(expected(root))
    assert len(source) == len(pairs) > PICTURES
    for index, (example, class_id) in enumerate(pairs):
        found = source[index]
        assert found["name"] == f"{example['name']}__{class_id}"
        assert found["class_id"] == class_id
        np.testing.assert_array_equal(found["image"], example["image"])
        np.testing.assert_array_equal(found["label"] == 1, example["label"] == class_id)
        np.testing.assert_array_equal(found["label"] == 255, example["label"] == 255)


def test_classes_may_be_the_seen_ones(root):
    both = [list(regions(root, subset=subset).class_ids) for subset in ("seen", "unseen")]
    pairs = [class_id for _, class_id in expected(root)]
    assert both == [[k for k in pairs if k < 15], [k for k in pairs if k >= 15]]


def test_labels_are_read_once(root):
    regions(root)
    (path,) = root.rglob("SegmentationClass_label_count.json")
    listed = json.loads(path.read_text())
    assert listed and all(values == sorted(values) for values in listed.values())
    first = next(iter(listed))
    path.write_text(json.dumps(listed | {first: [3]}))
    assert sum(pair.label.name == first for pair in regions(root).pairs) == 1
    path.write_text(json.dumps({first: listed[first]}))  # what is missing is added
    regions(root)
    assert json.loads(path.read_text()) == listed
    path.write_text("{")
    with pytest.raises(UserError, match="delete it"):
        regions(root)
    path.unlink()


def test_pairs_are_drawn_with_repetition_and_few_are_kept():
    pairs = ClassPairs(np.arange(50), np.repeat(np.int32([4, 1]), [45, 5]))
    drawn = draw_per_class(pairs, 40)
    assert drawn.classes.tolist() == [4] * 40 + [1] * 5
    assert drawn.images[40:].tolist() == [45, 46, 47, 48, 49]
    assert len(set(drawn.images[:40].tolist())) < 40  # 45 without repetition would suffice
    np.testing.assert_array_equal(drawn.images, draw_per_class(pairs, 40).images)


def test_data_sets_of_episodes_are_refused(root):
    with pytest.raises(UserError, match="no labels of all classes"):
        regions(root, dataset="pascal5i_0")
