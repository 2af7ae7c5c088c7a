import numpy as np
import pytest

from data_pipelines.datasets import DATASETS, prepare
from data_pipelines.prepare import matlab
from data_pipelines.prepare.pascal_context import frequent_categories
from data_pipelines.sources.pascal_context import PascalContextSource
from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import load_label_space


def annotated(folder, label_map):
    """A data set of one picture for each split, the first of training with this LabelMap."""
    prepare("pascal_context", folder, None, 1)
    (folder / "trainval" / "2008_000001.mat").write_bytes(matlab.write({"LabelMap": label_map}))
    for labels in (folder / "VOCdevkit" / "VOC2010").glob("SegmentationClassContext*"):
        (labels / "2008_000001.png").unlink()
    return prepare("pascal_context", folder, folder, None)


def test_categories_become_classes(tmp_path):
    label_map = np.zeros((72, 96), np.uint16)
    label_map[0, :5] = 1, 2, 9, 458, 459  # accordion, aeroplane, bag, wood, the last
    assert "1 for train and 1 for val; 2 files are new" in annotated(tmp_path, label_map)

    def stored(classes):
        label = PascalContextSource(str(tmp_path), "train", classes)[0]["label"]
        return label.dtype, label[0, :6].tolist()

    assert stored(59) == (np.uint8, [255, 0, 1, 58, 255, 255])
    assert stored(60) == (np.uint8, [0, 1, 2, 59, 0, 0])
    assert stored(459) == (np.int32, [0, 1, 8, 457, 458, 459])


def test_the_frequent_categories_have_the_names_of_the_classes():
    every = load_label_space("pascal_context459").canonical
    names = tuple(every[category - 1] for category in frequent_categories())
    assert names == load_label_space("pascal_context59").canonical
    assert ("background", *names) == load_label_space("context_50_10").canonical


def test_pictures_without_annotation_are_not_listed(tmp_path):
    prepare("pascal_context", tmp_path, None, 3)
    (tmp_path / "trainval" / "2010_000002.mat").unlink()
    assert "3 for train and 2 for val; 0 files" in prepare(
        "pascal_context", tmp_path, tmp_path, None
    )
    source = DATASETS["context60"].open(str(tmp_path), "val")
    assert [pair.name for pair in source.pairs] == ["2010_000001", "2010_000003"]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"2008_000001\.mat' has the value 460, but Context's cat"):
        annotated(tmp_path, np.full((72, 96), 460, np.uint16))
    (tmp_path / "trainval" / "2008_000001.mat").write_bytes(b"no matrix")
    with pytest.raises(UserError, match=r"cannot convert '.*2008_000001\.mat'"):
        prepare("pascal_context", tmp_path, tmp_path, None)
    with pytest.raises(UserError, match="the number of classes 61 is unknown; use one of 59, 60"):
        PascalContextSource(str(tmp_path), classes=61)
    for path in (tmp_path / "trainval").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no \*\.mat in .*unpack trainval\.tar\.gz"):
        prepare("pascal_context", tmp_path, tmp_path, None)
    lists = tmp_path / "VOCdevkit" / "VOC2010" / "ImageSets" / "SegmentationContext"
    (lists / "val.txt").unlink()
    with pytest.raises(UserError, match="is missing; make it with ovseg prepare pascal_context"):
        PascalContextSource(str(tmp_path))
