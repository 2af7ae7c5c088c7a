"""Labels for self-training are the truth where a class was seen, and files as sources read them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.folder import FolderSource
from data_pipelines.sources.shapes import ShapesSource
from ovseg_jax import models
from ovseg_jax.cli import main
from ovseg_jax.errors import UserError
from ovseg_jax.evaluation.pseudo_labels import label_training_pictures
from ovseg_jax.text.label_space import load_label_space

SPACE = load_label_space("shapes")


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run whose training pictures are files."""
    workdir = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    folders = {"images": tmp_path / "images", "labels": tmp_path / "labels"}
    for folder in folders.values():
        folder.mkdir()
    scenes = ShapesSource(split="masks", canvas=48, size=3)
    for index in range(3):
        scene = scenes[index]
        Image.fromarray(scene["image"]).save(folders["images"] / f"{index}.png")
        Image.fromarray(scene["label"].astype(np.uint8)).save(folders["labels"] / f"{index}.png")
    config = json.loads((workdir / "config.json").read_text())
    paths = {key: str(value) for key, value in folders.items()}
    config["data"]["train"]["source"] = {"name": "folder", "num_classes": len(SPACE), **paths}
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def test_seen_classes_keep_the_truth_and_unseen_ones_are_predicted(run, tmp_path, capsys):
    folder = tmp_path / "pseudo"
    means = label_training_pictures(run, folder)
    assert means["pictures"] == 3 and means["mIoU_seen"] > 99.9
    options = dict(images=str(tmp_path / "images"), num_classes=len(SPACE))
    truth = FolderSource(labels=str(tmp_path / "labels"), **options)
    ours = FolderSource(labels=str(folder), **options)
    for index in range(3):
        old, new = truth[index]["label"], ours[index]["label"]
        seen = np.isin(old, SPACE.seen)
        np.testing.assert_array_equal(new[seen], old[seen])
        assert np.isin(new[~seen], SPACE.unseen).all()
    # What is there stays, and is not counted.
    kept = (folder / "1.png").read_bytes()
    (folder / "2.png").unlink()
    assert label_training_pictures(run, folder)["pictures"] == 1
    assert "2 pictures had their labels" in capsys.readouterr().err
    assert (folder / "1.png").read_bytes() == kept


def test_a_threshold_rejects(run, tmp_path, capsys):
    assert main(["pseudo-labels", str(run), str(tmp_path / "none"), "--threshold", "2"]) == 0
    assert "3 labels in" in capsys.readouterr().out
    label = np.asarray(Image.open(tmp_path / "none" / "0.png"))
    assert set(np.unique(label)) <= {*SPACE.seen, 255}


def test_label_spaces_without_a_split_are_refused(run, tmp_path, capsys):
    config = json.loads((run / "config.json").read_text())
    config["vocabulary"]["label_space"] = "voc20"
    (run / "config.json").write_text(json.dumps(config))
    assert main(["pseudo-labels", str(run), str(tmp_path / "none")]) == 1
    assert "self-training needs classes without masks" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_pictures_that_were_no_training_pictures_get_labels_too(run, tmp_path, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    source = dict(name="with_classes", dataset="voc20", root="voc", split="train", subset="seen")
    config["data"]["train"]["source"] = source
    (run / "config.json").write_text(json.dumps(config))

    def create_loader(config, data, *arguments, **options):
        raise UserError(str(data.source.to_dict()))

    monkeypatch.setattr(models, "create_loader", create_loader)
    with pytest.raises(UserError, match="'split': 'train', 'subset': 'all'"):
        label_training_pictures(run, tmp_path / "pseudo")
