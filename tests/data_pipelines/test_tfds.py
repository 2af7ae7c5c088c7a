"""Data sets that tensorflow_datasets prepared, in both of its formats."""

import sys

import cv2
import numpy as np
import pytest

from data_pipelines.sources.tfds import TfdsSource, find_prepared
from ovseg_jax.errors import UserError

COUNT = 7


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def prepared(request, tmp_path_factory):
    """A data_dir with two sets of ours; the labels of number n are n and 0."""
    pytest.importorskip("importlib_resources")  # which tfds needs to write, but not to read
    pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp(request.param)
    image = np.zeros((4, 6, 3), np.uint8)
    labels = {
        "scene_parse150": ("annotation", "image", 150),
        "cityscapes": ("segmentation_label", "image_left", 7),
    }
    for name, (label, picture, largest) in labels.items():
        features = {
            picture: tfds.features.Image(encoding_format="png"),
            label: tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "image_id": tfds.features.Text(),
        }
        stored = np.full((4, 6, 1), largest, np.uint8)
        stored[:2] = 0
        store(tfds, root, name, features, request.param, {picture: image, label: stored})
    store(
        tfds,
        root,
        "coco_captions",
        {
            "image": tfds.features.Image(encoding_format="png"),
            "image/filename": tfds.features.Text(),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
        },
        request.param,
        {"image": image},
    )
    return root


def store(tfds, root, name, features, file_format, example):
    """Writes seven examples; their pictures have the value of their number."""
    configs = {"coco_captions": "2014", "cityscapes": "semantic_segmentation"}

    def numbered(number):
        changed = {key: value + number for key, value in example.items() if "image" in key}
        if name == "coco_captions":
            texts = [{"id": 1, "text": f"first {number}"}, {"id": 2, "text": "second"}]
            return changed | {"image/filename": f"{number}.jpg", "captions": texts}
        return example | changed | {"image_id": f"town_{number}"}

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        config=configs.get(name),
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": [(k, numbered(k)) for k in range(COUNT)]},
        data_dir=root,
        file_format=file_format,
        disable_shuffling=True,
    )


def test_captions(prepared):
    source = TfdsSource("coco_captions", str(prepared))
    assert len(source) == COUNT
    assert [int(source[k]["image"][0, 0, 0]) for k in range(COUNT)] == [*range(COUNT)]
    example = source[3]
    assert example["image"].shape == (4, 6, 3) and example["name"] == "3.jpg"
    assert (example["caption"], example["captions"]) == ("first 3", ("first 3", "second"))
    assert "label" not in example


def test_labels_become_the_classes_of_our_own_sources(prepared):
    ade = TfdsSource("scene_parse150", str(prepared))[5]
    np.testing.assert_array_equal(ade["label"][:, 0], [255, 255, 149, 149])
    city = TfdsSource("cityscapes", str(prepared))[5]
    np.testing.assert_array_equal(city["label"][:, 0], [255, 255, 0, 0])  # label id 7 is road
    assert city["name"] == "town_5"


def test_a_mapping_of_ones_own(prepared):
    features = {"image": "image", "caption": "image/filename"}
    folder = "coco_captions/2014/1.0.0"
    example = TfdsSource(folder, str(prepared), "train[2:]", features=features)[1]
    assert example["caption"] == "3.jpg"
    assert len(TfdsSource(folder, str(prepared), "train[2:5]", features=features)) == 3
    features = {"image": "image", "label": "annotation"}
    plain = TfdsSource("scene_parse150/1.0.0", str(prepared), features=features)[0]
    np.testing.assert_array_equal(plain["label"][:, 0], [0, 0, 150, 150])


def test_names_may_be_numbers(tmp_path, monkeypatch):
    folder = tmp_path / "my_set" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").touch()
    picture = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    records = [{"image": picture, "id": np.int64(7)}, {"image": picture, "id": "seven"}]
    monkeypatch.setattr("data_pipelines.sources.tfds.open_records", lambda *_: records)
    source = TfdsSource("my_set", str(tmp_path), features={"image": "image", "name": "id"})
    assert [example["name"] for example in source] == ["7", "seven"]


@pytest.mark.parametrize("more", [{"features": {"image": "picture"}}, {"labels": "ade20k"}])
def test_a_preset_takes_no_features(more, tmp_path):
    with pytest.raises(UserError, match=r"brings its own features .*'scene_parse150/<version>'"):
        TfdsSource("scene_parse150", str(tmp_path), **more)


def test_mistakes(prepared):
    folder = "coco_captions/2014/1.0.0"
    with pytest.raises(UserError, match="Unknown split 'tain'"):
        TfdsSource("coco_captions", str(prepared), "tain")
    with pytest.raises(UserError, match=r"/0' has no feature 'captions/words'; it has .*image"):
        features = {"image": "image", "captions": "captions/words"}
        TfdsSource(folder, str(prepared), features=features)[0]
    with pytest.raises(UserError, match="names no image; give features="):
        TfdsSource(folder, str(prepared))
    with pytest.raises(UserError, match="the key 'picture' is unknown; use one of image, label"):
        TfdsSource(folder, str(prepared), features={"picture": "image"})


def test_the_newest_version_is_found_or_the_command_that_prepares_it_named(tmp_path):
    command = f"tfds build cityscapes/semantic_segmentation --data_dir {tmp_path}"
    with pytest.raises(UserError, match=command):
        TfdsSource("cityscapes", str(tmp_path))
    for version in ("1.9.0", "1.10.0", "incomplete.1_2.0.0"):
        folder = tmp_path / "my_set" / version
        folder.mkdir(parents=True)
        (folder / "features.json").touch()
    assert find_prepared(tmp_path, "my_set").name == "1.10.0"
    assert find_prepared(tmp_path, "my_set/1.9.0").name == "1.9.0"


def test_tfds_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    folder = tmp_path / "scene_parse150" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").touch()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="need tensorflow_datasets; install it"):
        TfdsSource("scene_parse150", str(tmp_path))
