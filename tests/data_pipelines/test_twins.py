"""Every data set by its twin: the real format, read by the real source."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from data_pipelines.datasets import DATASETS, LabelledDataset, find_dataset, prepare
from data_pipelines.doctor import examine
from ovseg_jax.cli import main
from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import load_label_space

LABELLED = [name for name in DATASETS if isinstance(DATASETS[name], LabelledDataset)]
CAPTIONED = [name for name in DATASETS if name not in LABELLED]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A folder with the twin of each family, made when asked for."""
    made = {}

    def twin(family: str):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            prepare(family, made[family], None, 3)
        return str(made[family])

    return twin


@pytest.mark.parametrize("name", LABELLED)
def test_a_twin_loads_by_the_words_of_its_data_set(twins, name):
    dataset = DATASETS[name]
    space = load_label_space(dataset.label_space)
    allowed = {*range(len(space)), space.ignore_label}
    for split in dataset.splits:
        source = dataset.open(twins(dataset.preparation), split)
        assert len(source) >= 3
        for example in (source[0], source[len(source) - 1]):
            assert example["image"].dtype == np.uint8
            assert example["image"].shape == (*example["label"].shape, 3)
            assert set(np.unique(example["label"]).tolist()) <= allowed


@pytest.mark.parametrize("name", CAPTIONED)
def test_a_twin_has_captions(twins, name):
    dataset = DATASETS[name]
    names = set()
    for split in dataset.splits:
        source = dataset.open(twins(dataset.preparation), split)
        assert len(source) == 3
        for example in map(source.__getitem__, range(3)):
            assert example["image"].dtype == np.uint8 and example["image"].shape[2] == 3
            assert len(example["caption"].split()) > 3
            names.add(example["name"])
    assert len(names) == 3 * len(dataset.splits)


@pytest.mark.parametrize("name", DATASETS)
def test_the_doctor_finds_a_twin_healthy_but_small(twins, name):
    dataset = DATASETS[name]
    for report in examine(dataset, twins(dataset.preparation)):
        findings = [text for text in report.findings if "no pixel of" not in text]
        assert len(findings) == 1 and "published are" in findings[0]


def test_the_doctor_names_what_is_wrong(tmp_path, capsys):
    prepare("voc", tmp_path, None, 2)
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages" / "2009_000001.jpg").write_bytes(b"no picture")
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("2007_000001\n2009_000002\n")
    arguments = ["doctor", "voc20", "--data", str(tmp_path), "--output", str(tmp_path / "seen")]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "2009_000001.jpg'; is it damaged" in printed
    assert "splits val and train share 1 pictures (2009_000002); take them out of train" in printed
    assert list((tmp_path / "seen").glob("val_*.png"))


def test_the_doctor_shows_pictures_with_their_captions(tmp_path, capsys):
    prepare("coco_captions", tmp_path, None, 2)
    path = tmp_path / "annotations" / "captions_val2017.json"
    lists = json.loads(path.read_bytes())
    first, second = (picture["id"] for picture in lists["images"])
    for note in lists["annotations"]:
        note["caption"] = "" if note["image_id"] == first else note["caption"]
    path.write_text(json.dumps(lists))
    (tmp_path / "val2017" / f"{second:012d}.jpg").unlink()
    arguments = ["doctor", "coco_captions", "--data", str(tmp_path), "--split", "val"]
    assert main([*arguments, "--output", str(tmp_path / "seen")]) == 1
    printed = capsys.readouterr().out
    assert f"1 pictures with an empty caption ({first:012d})" in printed
    assert f"{second:012d}.jpg'; does it exist?" in printed
    shown = Image.open(tmp_path / "seen" / f"val_{first:012d}.png")
    picture = Image.open(tmp_path / "val2017" / f"{first:012d}.jpg")
    assert shown.height / shown.width > picture.height / picture.width  # a strip is below it


def test_coco_lists_are_read_in_the_order_of_their_ids(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    for number in (7, 3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(
            tmp_path / "images" / "val2017" / f"{number:012d}.jpg"
        )
    images = [dict(id=number, file_name=f"{number:012d}.jpg") for number in (7, 3)]
    notes = [dict(id=20, image_id=3, caption="b "), dict(id=10, image_id=3, caption="a\n")]
    notes.append(dict(id=15, image_id=7, caption="c"))
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps(dict(images=images, annotations=notes)))
    source = find_dataset("coco_captions").open(str(tmp_path), "val")
    assert [source[k]["captions"] for k in range(2)] == [("a", "b"), ("c",)]
    assert (source[0]["caption"], source[0]["name"]) == ("a", "000000000003")
    path.write_text("{}")
    with pytest.raises(UserError, match=r"captions_val2017\.json' is no list of captions"):
        find_dataset("coco_captions").open(str(tmp_path), "val")


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'vox20'; did you mean 'voc20'"):
        find_dataset("vox20")
    with pytest.raises(UserError, match=r"no JPEGImages in .*unpack VOCtrainval"):
        find_dataset("voc20").open(str(tmp_path), "val")
    with pytest.raises(UserError, match="webdataset needs no preparation"):
        prepare("cc3m", tmp_path, tmp_path, None)
    with pytest.raises(UserError, match="a twin of 0 examples is none"):
        prepare("voc", tmp_path, None, 0)


def test_labels_of_sbd_become_palette_pngs(tmp_path):
    prepare("voc", tmp_path / "voc", None, 2)
    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    (sbd / "cls").mkdir(parents=True)
    (sbd / "train.txt").write_text("2007_000001\n2010_000007\n")  # the first is VOC's own
    (sbd / "val.txt").write_text("2010_000003\n")
    label = np.asarray([[0, 20, 255], [1, 1, 2]], np.uint8)
    for name in ("2010_000007", "2010_000003"):
        savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": label}})
    said = prepare("voc", tmp_path / "voc", tmp_path, None)
    assert "2 labels" in said and "2 of them new" in said
    folder = tmp_path / "voc" / "VOCdevkit" / "VOC2012"
    listed = (folder / "ImageSets" / "Segmentation" / "aug.txt").read_text().split()
    assert listed == ["2010_000003", "2010_000007"]
    image = Image.open(folder / "SegmentationClassAug" / "2010_000007.png")
    assert image.mode == "P" and image.getpalette()[3:6] == [128, 0, 0]
    np.testing.assert_array_equal(image, label)
    assert "0 of them new" in prepare("voc", tmp_path / "voc", tmp_path, None)
    (sbd / "cls" / "2010_000003.mat").write_bytes(b"no matrix")
    (folder / "SegmentationClassAug" / "2010_000003.png").unlink()
    with pytest.raises(UserError, match=r"cannot convert '.*2010_000003\.mat'"):
        prepare("voc", tmp_path / "voc", tmp_path, None)
