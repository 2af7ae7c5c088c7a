"""The benchmarks with held-out classes: their lists, episodes and masks."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets import DATASETS, prepare
from data_pipelines.doctor import examine, save_pages
from data_pipelines.prepare.folds import write_lists
from data_pipelines.prepare.images import palette_png
from data_pipelines.sources import coco20i, pascal5i
from data_pipelines.sources.class_masks import read_pairs
from data_pipelines.sources.coco20i import Coco20iSource
from data_pipelines.sources.fss1000 import FSS1000Source
from data_pipelines.sources.pascal5i import Pascal5iSource
from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import load_label_space

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_samples" / "voc_labelme"


def write(path: Path, content: bytes = b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_png(path: Path, pixels: np.ndarray):
    write(path, cv2.imencode(".png", pixels)[1].tobytes())


@pytest.fixture
def voc(tmp_path):
    """The folder VOC2012 without a picture, SBD's labels prepared."""
    for name in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / name).mkdir()
    for split, name in (("train", "2007_000032"), ("val", "2007_000033")):
        write(tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt", name.encode())
    return tmp_path


@pytest.fixture
def coco(tmp_path):
    """The folders of COCO 2014 as they should be, each with one file."""
    for split in ("train2014", "val2014"):
        write(tmp_path / split / "one.jpg")
        write(tmp_path / "annotations" / split / "one.png")
    return tmp_path


def test_folds_are_those_of_the_label_spaces():
    for module, name in ((pascal5i, "pascal5i"), (coco20i, "coco20i")):
        folds = load_label_space(name).folds
        assert tuple(map(tuple, folds)) == module.FOLDS


@pytest.mark.parametrize("fold", range(4))
def test_published_counts(fold, tmp_path):
    hsnet = {
        "pascal5i": {"train": (11_394, 10_255, 7797, 11_594)[fold], "val": 1000},
        "coco20i": DATASETS[f"coco20i_{fold}"].splits,
    }
    for module, name in ((pascal5i, "pascal5i"), (coco20i, "coco20i")):
        for split, published in DATASETS[f"{name}_{fold}"].splits.items():
            pairs = module.choose_pairs(tmp_path, fold, split, "fusioner")
            assert len(pairs.images) == len(pairs.classes) == published
            held_out = np.isin(pairs.classes, module.FOLDS[fold])
            assert held_out.all() if split == "val" else not held_out.any()
            pairs = module.choose_pairs(tmp_path, fold, split, "hsnet")
            assert len(pairs.images) == hsnet[name][split]


def test_episodes_of_pascal_go_round_the_list(voc):
    listed = Pascal5iSource(str(voc), 0, "val").pairs
    episodes = Pascal5iSource(str(voc), 0, "val", "hsnet").pairs
    assert episodes[:346] == listed and episodes[346 * 2 :] == listed[: 1000 - 2 * 346]
    assert listed[0].name == "2007_000033__01"
    assert listed[0].label == voc / "SegmentationClass" / "2007_000033.png"
    assert listed[1].label.parent.name == "SegmentationClassAug"


@pytest.mark.parametrize("fold", [0, 2])
def test_episodes_of_coco_are_lsegs(fold, coco, golden):
    source = Coco20iSource(str(coco), fold, "val", "hsnet")
    with np.load(golden / "lseg" / "coco_episodes.npz") as recorded:
        np.testing.assert_array_equal(source.class_ids, recorded[f"out/shot0_fold{fold}_class"])
        images = recorded[f"out/shot0_fold{fold}_query_id"]
    files = [Path(pair.image).name for pair in source.pairs]
    assert files == [f"COCO_val2014_{i:012d}.jpg" for i in images]


def test_fusioner_takes_the_first_thousand(coco):
    source = Coco20iSource(str(coco), 0, "val")
    assert np.count_nonzero(source.class_ids == 0) == 551  # person
    assert np.count_nonzero(source.class_ids == 12) == 2  # parkingmeter
    assert [pair.name for pair in source.pairs[:3]] == [
        "COCO_val2014_000000000042__17",
        "COCO_val2014_000000000074__01",
        "COCO_val2014_000000000074__17",
    ]


@pytest.mark.parametrize("places", [("{}", "annotations/{}"), ("{0}/{0}", "annotation/{0}/{0}")])
def test_masks_of_coco(tmp_path, places):
    images, labels = (tmp_path / place.format("val2014") for place in places)
    name = f"COCO_val2014_{74:012d}"
    write(images / f"{name}.jpg", cv2.imencode(".jpg", np.zeros((1, 4, 3), np.uint8))[1].tobytes())
    write_png(labels / f"{name}.png", np.uint8([[0, 1, 17, 255]]))
    write_lists(tmp_path / "coco20i.npz", val=[(74, 0), (74, 16)])
    source = Coco20iSource(str(tmp_path), 0, "val")
    np.testing.assert_array_equal(source[0]["label"], [[0, 1, 0, 255]])
    np.testing.assert_array_equal(source[1]["label"], [[0, 0, 1, 255]])
    assert source[1]["class_id"] == 16 and source[1]["class_id"].dtype == np.int32
    source = Coco20iSource(str(tmp_path), 0, "val", "hsnet")
    assert len(source) == 1000 and source[0]["label"].max() == 1


def test_masks_of_fss(tmp_path):
    name = load_label_space("fss1000").names[760]
    for number in (2, 10):
        write_png(tmp_path / name / f"{number}.jpg", np.zeros((1, 4, 3), np.uint8))
        grey = np.uint8([[0, 127, 128, 255]])
        write_png(tmp_path / name / f"{number}.png", grey if number == 2 else np.dstack([grey] * 3))
    source = FSS1000Source(str(tmp_path))
    assert [example["name"] for example in source] == [f"{name}/2", f"{name}/10"]
    for example in source:
        np.testing.assert_array_equal(example["label"], [[0, 0, 1, 1]])
        assert example["class_id"] == 760
    write(tmp_path / name / "2.png", b"no mask")
    with pytest.raises(UserError, match=r"cannot read the mask .*2\.png"):
        source[0]
    with pytest.raises(UserError, match=r"no picture of FSS-1000's split train, such as ac_wall/1"):
        FSS1000Source(str(tmp_path), "train")


def test_overlays_name_the_class(tmp_path):
    prepare("pascal5i", tmp_path, None, 2)
    dataset = DATASETS["pascal5i_3"]
    (report,) = examine(dataset, str(tmp_path), ["val"])
    assert not report.pixels[:15].any() and report.pixels[15:].any() and report.ignored == 0
    save_pages(dataset, str(tmp_path), [report], tmp_path / "seen")
    assert len(list((tmp_path / "seen").iterdir())) == 2


def test_mistakes(voc):
    with pytest.raises(UserError, match=r"the fold 4 is unknown; use one of 0, 1, 2, 3"):
        Pascal5iSource(str(voc), 4)
    with pytest.raises(UserError, match=r"choice of lists 'lseg' is unknown; use one of fusioner,"):
        Coco20iSource(str(voc), lists="lseg")
    with pytest.raises(UserError, match=r"no \*\.jpg in val2014, val2014/val2014"):
        Coco20iSource(str(voc))
    (voc / "SegmentationClassAug").rmdir()
    with pytest.raises(UserError, match=r"SegmentationClassAug' is missing; .*ovseg prepare voc"):
        Pascal5iSource(str(voc), split="train")
    write(voc / "pascal5i.npz", b"no lists")
    with pytest.raises(UserError, match=r"cannot read the lists .*take the file away"):
        read_pairs(voc, "pascal5i", "val")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real samples lie beside the repository only")
def test_real_samples(voc):
    names = ("2011_000003", "2011_000006", "2011_000025")
    for name in names:
        shutil.copy(REAL / f"{name}.jpg", voc / "JPEGImages")
        label = np.asarray(Image.open(REAL / f"{name}.png"))
        write(voc / "SegmentationClass" / f"{name}.png", palette_png(label))
    write(voc / "ImageSets" / "Segmentation" / "val.txt", "\n".join(names).encode())
    write_lists(voc / "pascal5i.npz", val=[(names[0], 14), (names[1], 14), (names[1], 17)])
    source = Pascal5iSource(str(voc), fold=2)
    assert len(source) == 2
    for example, name in zip(source, names, strict=False):
        stored = np.asarray(Image.open(REAL / f"{name}.png"))
        np.testing.assert_array_equal(example["label"] == 1, stored == 15)
        np.testing.assert_array_equal(example["label"] == 255, stored == 255)
        assert example["image"].shape == (*stored.shape, 3) and example["class_id"] == 14
