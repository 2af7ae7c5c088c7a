import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.datasets import DATASETS, prepare
from data_pipelines.doctor import examine
from data_pipelines.prepare.ade20k_full import colour_mask, object_classes, object_ids
from data_pipelines.prepare.images import encode
from data_pipelines.sources.ade20k import ADE20KSource
from data_pipelines.sources.ade20k_full import ADE20KFullSource
from data_pipelines.sources.labelled import read_image, read_label
from ovseg_jax.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_samples" / "ade20k"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real samples lie beside the repository only")
def test_genuine_files(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    for kind, ending in (("images", "jpg"), ("annotations", "png")):
        (folder / kind / "validation").mkdir(parents=True)
        for path in REAL.glob(f"*.{ending}"):
            shutil.copy(path, folder / kind / "validation")
    source = ADE20KSource(str(tmp_path))
    assert [pair.name for pair in source.pairs] == [f"ADE_val_0000000{k}" for k in (1, 2, 3)]
    for example in source:
        stored = read_label(REAL / f"{example['name']}.png")
        np.testing.assert_array_equal(example["label"][stored > 0], stored[stored > 0] - 1)
        assert (example["label"][stored == 0] == 255).all()
    (report,) = examine(DATASETS["ade150"], str(tmp_path), ["val"])
    assert {"sky", "road, route", "building"} <= {
        name for name, count in zip(report.classes, report.pixels, strict=True) if count
    }
    assert len(report.findings) == 2  # few pictures and few classes, nothing else


def test_a_value_beyond_the_classes_is_refused(tmp_path):
    prepare("ade20k", tmp_path, None, 1)
    (path,) = (tmp_path / "ADEChallengeData2016" / "annotations" / "validation").iterdir()
    path.write_bytes(encode(np.full((96, 72), 151, np.uint8), ".png"))
    with pytest.raises(UserError, match=r"has the value 151, but ADE20K's labels are 0\.\.150"):
        ADE20KSource(str(tmp_path))[0]
    with pytest.raises(UserError, match="ade20k needs no preparation"):
        prepare("ade20k", tmp_path, tmp_path, None)
    path.with_name("empty").mkdir()
    with pytest.raises(UserError, match=r"no annotations in .*unpack ADEChallengeData2016\.zip"):
        ADE20KSource(str(path.with_name("empty")))


# --- The full set of 847 classes ---------------------------------------------------------------


def test_colours_of_object_masks():
    # Tens of red count 256 objects; its units and the blue mean other things.
    mask = np.asarray([[[0, 0, 0], [119, 162, 7], [10, 0, 255], [120, 84, 1]]], np.uint8)
    assert object_ids(mask).tolist() == [[0, 11 * 256 + 162, 256, 12 * 256 + 84]]
    ids = np.asarray([object_classes()])
    np.testing.assert_array_equal(object_ids(colour_mask(ids)), ids)
    assert object_classes()[0] == 11 * 256 + 162  # wall


def test_large_pictures_are_shrunk_to_a_short_side_of_512(tmp_path):
    scene = tmp_path / "images" / "ADE" / "validation" / "urban" / "street"
    scene.mkdir(parents=True)
    (tmp_path / "images" / "ADE" / "training").symlink_to(scene.parents[1])
    wall, unknown = object_classes()[0], 1
    ids = np.full((768, 1025), wall)
    ids[:, :512] = unknown
    rng = np.random.default_rng(0)
    for name, size in (("large", np.s_[:, :]), ("small", np.s_[:512, :600])):
        part = ids[size]
        picture = rng.integers(0, 256, (*part.shape, 3), np.uint8)
        (scene / f"{name}.jpg").write_bytes(encode(picture, ".jpg"))
        (scene / f"{name}_seg.png").write_bytes(encode(colour_mask(part), ".png"))
    prepare("ade20k_full", tmp_path / "made", tmp_path, None)
    large, small = ADE20KFullSource(str(tmp_path / "made"))
    assert large["image"].shape == (512, 683, 3) and large["label"].dtype == np.int32
    assert (large["label"][:, :341] == 65_535).all() and (large["label"][:, 343:] == 0).all()
    original = read_image(scene / "large.jpg")
    expected = cv2.resize(original, (683, 512), interpolation=cv2.INTER_LINEAR)
    assert np.abs(large["image"].astype(int) - expected).mean() < 10  # JPEG once more
    np.testing.assert_array_equal(small["image"], read_image(scene / "small.jpg"))
    assert Path(small["path"]).read_bytes() == (scene / "small.jpg").read_bytes()


def test_full_set_without_preparation(tmp_path):
    with pytest.raises(UserError, match="make them with ovseg prepare ade20k_full"):
        ADE20KFullSource(str(tmp_path))
    with pytest.raises(UserError, match=r"no images/ADE in .*unpack ADE20K_2021_17_01\.zip"):
        prepare("ade20k_full", tmp_path, tmp_path, None)
