"""Pictures that have some of the classes, and the labels that take the place of their own."""

import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import find_dataset, prepare
from data_pipelines.sources import create_source
from ovseg_jax.errors import UserError

NAME, SEEN = "voc_15_5_zsseg", range(15)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    prepare("voc", folder, None, 12)
    first = folder / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2009_000001.png"
    label = np.asarray(Image.open(first)).copy()
    label[:] = np.where(np.arange(len(label))[:, None] < 9, 20, 255)  # nothing but an unseen class
    Image.fromarray(label).save(first)
    return folder


def pictures(root, **options):
    options = dict(dataset=NAME, split="val") | options
    return create_source(dict(options, name="with_classes", root=str(root)))


def test_pictures_without_a_seen_class_are_left_out(root):
    everything = [find_dataset(NAME).open(str(root), "val")[index] for index in range(12)]
    seen = [example for example in everything if np.isin(example["label"], SEEN).any()]
    assert 0 < len(seen) < 12 and len(pictures(root)) == 12
    source = pictures(root, subset="seen")
    assert len(source) == len(seen)
    for index, wanted in enumerate(seen):
        found = source[index]
        assert found["name"] == wanted["name"]
        for key in ("image", "label"):
            np.testing.assert_array_equal(found[key], wanted[key])


def test_other_labels_take_the_place_of_its_own(root, tmp_path):
    source = pictures(root)
    for index in range(12):
        label = np.full(source[index]["label"].shape, 3, np.uint8)
        label[0] = 255
        Image.fromarray(label).save(tmp_path / f"{source[index]['name']}.png")
    relabelled = pictures(root, labels=str(tmp_path))
    assert [relabelled[index]["name"] for index in range(12)] == [
        source[index]["name"] for index in range(12)
    ]
    np.testing.assert_array_equal(np.unique(relabelled[5]["label"]), [3, 255])
    np.testing.assert_array_equal(relabelled[5]["image"], source[5]["image"])
    place = tmp_path / f"{source[5]['name']}.png"
    Image.fromarray(np.full_like(np.asarray(Image.open(place)), 20)).save(place)
    with pytest.raises(
        UserError, match=r"has the value 20, but .* 20 classes; write the labels an"
    ):
        relabelled[5]
    place.unlink()
    with pytest.raises(
        UserError, match=r"1 of 12 pictures have no label in .*pseudo-labels run to"
    ):
        pictures(root, labels=str(tmp_path))


def test_a_split_without_these_classes_is_refused(root, tmp_path):
    folder = shutil.copytree(root, tmp_path / "voc")
    for path in folder.rglob("*_label_count.json"):
        path.unlink()
    for path in (folder / "VOCdevkit" / "VOC2012" / "SegmentationClass").glob("*.png"):
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    with pytest.raises(UserError, match="val of voc_15_5_zsseg has no picture of these classes"):
        pictures(folder)
