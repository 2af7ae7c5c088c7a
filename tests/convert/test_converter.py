"""Whole conversions, of real files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ovseg_jax
from ovseg_jax.cli import main
from ovseg_jax.convert.converter import convert, convert_back, locate
from ovseg_jax.convert.layouts import LAYOUTS, find_layout
from ovseg_jax.errors import UserError
from ovseg_jax.weights import load_model_json, load_weights, save_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"


@pytest.fixture
def hf_folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "hf_vit", tmp_path / "hf_vit"))


def test_an_openai_archive(tmp_path):
    found = convert(str(GOLDEN / "openai_jit_vit.pt"), tmp_path / "model")
    assert (found.container, found.system) == ("TorchScript archive", "training_free")
    assert found.dropped == ("input_resolution", "context_length", "vocab_size")
    description = load_model_json(tmp_path / "model")
    assert description["system"]["clip"]["image"]["activation"] == "quick_gelu"
    assert len(description["notes"]["sha256"]) == 64
    weights = load_weights(tmp_path / "model" / "model.safetensors")
    assert weights["clip/image/projection"].dtype == np.float16  # as in the archive
    assert weights["clip/image/norm_post/scale"].dtype == np.float32


def test_there_and_back_in_the_names_of_hugging_face(tmp_path, hf_folder):
    convert(str(hf_folder), tmp_path / "model")
    count = convert_back(tmp_path / "model", tmp_path / "back.safetensors")
    theirs = load_file(hf_folder / "model.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert count == len(back)
    assert {name.rpartition(".")[2] for name in theirs.keys() - back.keys()} == {"position_ids"}
    for name, array in back.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
        assert array.dtype == theirs[name].dtype


def test_openclip_does_not_tell_its_activation(tmp_path):
    source = str(GOLDEN / "openclip_vit.pt")
    with pytest.raises(UserError, match="add --activation=quick_gelu"):
        convert(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    convert(source, tmp_path / "model", "gelu")
    sizes = load_model_json(tmp_path / "model")["system"]["clip"]
    assert sizes["image"]["activation"] == sizes["text"]["activation"] == "gelu"


def test_a_description_beside_the_file_tells_it(tmp_path):
    source = shutil.copy(GOLDEN / "openclip_vit.pt", tmp_path)
    description = {"model_cfg": {"quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    convert(str(source), tmp_path / "model")
    sizes = load_model_json(tmp_path / "model")["system"]["clip"]
    assert sizes["image"]["activation"] == "quick_gelu"


def test_a_text_tower_with_a_prefix(tmp_path, hf_folder):
    plain = {
        name: np.zeros((), np.float32) for name in ("visual.proj", "visual.class_embedding")
    } | {"text.token_embedding.weight": np.zeros(1), "text.text_projection": np.zeros(1)}
    layout = find_layout(plain | {"logit_scale": np.zeros(())}, "here")
    stripped = layout.strip(plain)
    assert {"token_embedding.weight", "text_projection"} <= stripped.keys()
    assert layout.unstrip(stripped).keys() == plain.keys()


def test_a_converted_model_segments_and_warns_of_its_words(tmp_path, hf_folder, capsys):
    (hf_folder / "README.md").write_text("---\nlicense: mit\n---\n")
    convert(str(hf_folder), tmp_path / "model")
    segmenter = ovseg_jax.load(tmp_path / "model")
    assert "came without its tokenizer" in capsys.readouterr().err
    picture = np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8)
    result = segmenter.segment(picture, "cat; grass, lawn; person in red; 猫")
    assert result.labels.shape == (70, 100)
    assert "'mit'" in load_model_json(tmp_path / "model")["notes"]["licence"]


def test_the_tokenizer_beside_the_weights_comes_along(tmp_path, hf_folder):
    for name in ("vocab.json", "merges.txt"):
        (hf_folder / name).write_text("{}" if name == "vocab.json" else "#version: 0.2\n")
    convert(str(hf_folder), tmp_path / "model")
    assert (tmp_path / "model" / "merges.txt").is_file()
    assert "warning" not in load_model_json(tmp_path / "model")["notes"]


def test_a_name_on_the_hub_comes_from_its_cache(tmp_path, hf_folder):
    cache = tmp_path / "hub" / "models--somebody--tiny-clip"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123abcd")
    (cache / "snapshots").mkdir()
    hf_folder.rename(cache / "snapshots" / "0123abcd")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}

    def run(name):
        command = [sys.executable, "-m", "ovseg_jax.convert", name, str(tmp_path / "model")]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert run("somebody/tiny-clip").returncode == 0
    notes = load_model_json(tmp_path / "model")["notes"]
    assert notes["source"] == "somebody/tiny-clip"
    failed = run("somebody/else")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert "could it be fetched from the hub" in failed.stderr


def test_a_resnet(tmp_path):
    arrays = np.load(GOLDEN / "rn.npz")
    prefix = "param/"
    save_weights(
        tmp_path / "rn.safetensors",
        {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)},
    )
    found = convert(str(tmp_path / "rn.safetensors"), tmp_path / "model", "quick_gelu")
    assert found.system == "clip"
    picture = np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8)
    assert ovseg_jax.load(tmp_path / "model").segment(picture, "cat; dog").labels.shape == (70, 100)


def test_dino_is_a_part_of_other_models(tmp_path):
    arrays = np.load(GOLDEN.parent / "training_free" / "slide_proxyclip_dinov2.npz")
    prefix = "param/vfm."
    save_weights(
        tmp_path / "dino.safetensors",
        {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)},
    )
    convert(str(tmp_path / "dino.safetensors"), tmp_path / "model")
    weights = load_weights(tmp_path / "model" / "model.safetensors")
    assert all(path.startswith("proxy/") for path in weights)
    with pytest.raises(UserError, match=r"holds a part of a model \(DINO and DINOv2\)"):
        ovseg_jax.load(tmp_path / "model")


def test_a_method_of_ones_own_choice(tmp_path, hf_folder):
    convert(str(hf_folder), tmp_path / "model", method="clearclip")
    assert load_model_json(tmp_path / "model")["system"]["method"] == "clearclip"
    with pytest.raises(UserError, match="did you mean 'naclip'"):
        convert(str(hf_folder), tmp_path / "other", method="naclips")
    assert not (tmp_path / "other").exists()


def test_a_plain_clip_if_one_wishes(tmp_path, hf_folder):
    convert(str(hf_folder), tmp_path / "model", system="clip")
    assert load_model_json(tmp_path / "model")["system"]["name"] == "clip"
    picture = np.zeros((40, 50, 3), np.uint8)
    assert ovseg_jax.load(tmp_path / "model").segment(picture, "cat; dog").labels.shape == (40, 50)


def test_mistakes(tmp_path, hf_folder):
    with pytest.raises(UserError, match="no checkpoint at nowhere"):
        locate("nowhere.pt")
    tensors = load_file(hf_folder / "model.safetensors")
    save_weights(tmp_path / "other.safetensors", {"a.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"no layout that is known .*first a\.weight"):
        convert(str(tmp_path / "other.safetensors"), tmp_path / "model")
    (hf_folder / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"whose sizes stand in config\.json"):
        convert(str(hf_folder), tmp_path / "model")
    (hf_folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        convert(str(hf_folder), tmp_path / "model")
    shutil.copy(tmp_path / "config.json", hf_folder)
    del tensors["visual_projection.weight"]
    tensors["visual_projection.weights"] = np.zeros(3, np.float32)
    save_weights(hf_folder / "model.safetensors", tensors)
    with pytest.raises(UserError, match="no layout that is known"):
        convert(str(hf_folder), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_tensors_that_are_not_accounted_for(tmp_path, hf_folder):
    tensors = load_file(hf_folder / "model.safetensors") | {"extra": np.zeros(3, np.float32)}
    del tensors["vision_model.post_layernorm.bias"]
    save_weights(hf_folder / "model.safetensors", tensors)
    with pytest.raises(UserError, match=r"no rule: extra; .*clip/image/norm_post/bias"):
        convert(str(hf_folder), tmp_path / "model")


def test_only_converted_models_go_back(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match="was not converted"):
        convert_back(tmp_path, tmp_path / "back.safetensors")


def test_the_command(tmp_path, capsys):
    source = str(GOLDEN / "openai_jit_vit.pt")
    assert main(["convert", source, str(tmp_path / "model")]) == 0
    assert "38 tensors" in capsys.readouterr().out
    back = str(tmp_path / "back.safetensors")
    assert main(["convert", "--to-torch", str(tmp_path / "model"), back]) == 0
    assert main(["convert", str(tmp_path / "nothing"), back]) == 1
    assert "no checkpoint at" in capsys.readouterr().err


def test_layouts_of_other_versions_are_named(tmp_path):
    (tmp_path / "model.json").write_text('{"notes": {"layout": "zseg"}}')
    with pytest.raises(UserError, match="unknown layout 'zseg'; did you mean 'zsseg'"):
        convert_back(tmp_path, tmp_path / "back.safetensors")


def test_every_layout_is_told_from_the_others():
    for layout in LAYOUTS:
        names = dict.fromkeys(layout.signature, np.zeros(()))
        assert find_layout(names, "here") is layout
