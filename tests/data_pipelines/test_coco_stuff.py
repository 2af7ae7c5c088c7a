"""COCO-Stuff and COCO-Object: the official ids, the folders of the archives, what is refused."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.sources.coco_stuff import VALUES, CocoStuffSource, label_table
from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import load_label_space

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_samples" / "coco"


def write(root: Path, images: str, labels: str, values=(0, 181, 255)):
    """One picture of a row of pixels, in the folders of an archive."""
    for folder in (images, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    label = np.asarray([values], np.uint8)
    cv2.imwrite(str(root / images / "000000000139.jpg"), np.zeros((*label.shape, 3), np.uint8))
    cv2.imwrite(str(root / labels / "000000000139.png"), label)


def test_classes_by_the_official_ids():
    space = load_label_space("coco_stuff_171_zsseg")
    table = label_table("all").classes
    assert [int(table[i - 1]) for i in space.extra["source_ids"]] == list(range(171))
    assert sorted(set(table)) == [-1, *range(171), 255]
    things = label_table("things").classes
    ids = load_label_space("coco20i").extra["source_ids"]
    assert [int(things[i - 1]) for i in ids] == list(range(1, 81))
    assert things[255] == 0 and not things[list(VALUES[80:])].any()


def test_all_label_spaces_have_one_order():
    names = [
        load_label_space(name).display_names
        for name in ("coco_stuff171", "coco_stuff_zegclip", "coco_stuff_171_zsseg")
    ]
    assert names[0] == names[1] == names[2]
    assert load_label_space("coco_object81").canonical[1:] == names[0][:80]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("val2017", "stuffthingmaps/val2017"),
        ("images/val2017", "annotations/val2017"),
        ("val2017", "val2017"),
    ],
)
def test_folders(tmp_path, images, labels):
    write(tmp_path, images, labels)
    source = CocoStuffSource(str(tmp_path))
    assert len(source) == 1 and source[0]["name"] == "000000000139"
    np.testing.assert_array_equal(source[0]["label"], [[0, 170, 255]])


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"no \*\.jpg in val2017, images/val2017 .*val2017\.zip"):
        CocoStuffSource(str(tmp_path))
    write(tmp_path, "train2017", "stuffthingmaps/train2017", values=[11])
    with pytest.raises(UserError, match=r"000000000139\.png' has the value 11, but COCO-Stuff's"):
        CocoStuffSource(str(tmp_path), "train")[0]
    with pytest.raises(UserError, match="choice of classes 'stuff' is unknown"):
        CocoStuffSource(str(tmp_path), "train", classes="stuff")
    (tmp_path / "train2017" / "000000000009.jpg").touch()
    with pytest.raises(UserError, match=r"the image 000000000009\.jpg has no label in"):
        CocoStuffSource(str(tmp_path), "train")
    with pytest.raises(UserError, match="split 'test' is unknown; use one of train, val"):
        CocoStuffSource(str(tmp_path), "test")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real samples lie beside the repository only")
def test_real_samples(tmp_path):
    """Real pictures, their things written down as COCO-Stuff stores them."""
    images, labels = (tmp_path / name / "val2017" for name in ("images", "stuffthingmaps"))
    images.mkdir(parents=True), labels.mkdir(parents=True)
    stored = np.asarray([255, *VALUES[:80]], np.uint8)
    wanted = {}
    for path in sorted(REAL.glob("*.jpg")):
        shutil.copy(path, images)
        wanted[path.stem] = cv2.imread(str(REAL / f"{path.stem}_object81.png"), -1)
        cv2.imwrite(str(labels / f"{path.stem}.png"), stored[wanted[path.stem]])
    things = CocoStuffSource(str(tmp_path), classes="things")
    everything = CocoStuffSource(str(tmp_path))
    assert len(things) == len(wanted) == 2
    for index, (name, label) in enumerate(wanted.items()):
        example = things[index]
        assert example["name"] == name and example["image"].shape == (*label.shape, 3)
        np.testing.assert_array_equal(example["label"], label)
        np.testing.assert_array_equal(everything[index]["label"], label - np.uint8(1))
