import json
import shutil

import numpy as np
import pytest
import tiny

from ovseg_jax import models
from ovseg_jax.errors import UserError
from ovseg_jax.params import split_model
from ovseg_jax.train import train
from ovseg_jax.training.checkpoints import restore_parameters
from ovseg_jax.weights import load_weights, save_weights

pytestmark = pytest.mark.usefixtures("compiling_fast")


@pytest.mark.parametrize("checkpoint", ["latest", "previous"])
def test_a_run_is_loaded_whole(tiny_run, checkpoint):
    model = models.load_run(tiny.config(), tiny_run, checkpoint)
    trained = restore_parameters(tiny_run, checkpoint)
    frozen = load_weights(tiny_run / "frozen.safetensors")
    assert model.params.keys() == trained.keys() | frozen.keys()
    assert not trained.keys() & frozen.keys()
    for path, value in (trained | frozen).items():
        np.testing.assert_array_equal(model.params[path], value, err_msg=path)


def test_a_run_of_another_architecture(tiny_run):
    with pytest.raises(UserError, match=r"another architecture .*head/layers/0/mlp/fc1"):
        models.load_run(tiny.config(system__decoder_hidden=24), tiny_run)


def test_a_run_without_checkpoint(tiny_run, tmp_path):
    with pytest.raises(UserError, match="no model folder"):
        models.load_run(tiny.config(), tmp_path / "nowhere")
    shutil.copy(tiny_run / "model.json", tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint; train first"):
        models.load_run(tiny.config(), tmp_path)


def test_pretrained_parameters_replace_those_of_the_same_path(tiny_run):
    config = tiny.config(pretrained=str(tiny_run), seed=1)
    _, params, _ = models.initialize_model(config)
    weights = models.load_folder_weights(tiny_run)
    for path, value in weights.items():
        np.testing.assert_array_equal(params[path], value, err_msg=path)


def test_positions_of_a_pretrained_model_are_resized(tiny_run, tmp_path):
    weights = models.load_folder_weights(tiny_run)
    only_clip = {path: value for path, value in weights.items() if path.startswith("clip/")}
    save_weights(tmp_path / "model.safetensors", only_clip)
    config = tiny.config(pretrained=str(tmp_path), system__clip__image__image_size=64)
    _, params, _ = models.initialize_model(config)
    positions = params["clip/image/positions"]
    assert positions.shape == (1 + 16, 16)
    np.testing.assert_array_equal(positions[0], weights["clip/image/positions"][0])
    np.testing.assert_allclose(  # bilinear, half-pixel: the corners are kept
        positions[1], weights["clip/image/positions"][1], atol=1e-6
    )


def test_pretrained_mistakes(tmp_path):
    with pytest.raises(UserError, match="no model folder at"):
        models.initialize_model(tiny.config(pretrained=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="holds no weights"):
        models.initialize_model(tiny.config(pretrained=str(tmp_path)))
    save_weights(tmp_path / "model.safetensors", {"clip/foreign": np.zeros(3)})
    with pytest.raises(UserError, match=r"not in the model \(clip/foreign\)"):
        models.initialize_model(tiny.config(pretrained=str(tmp_path)))
    save_weights(tmp_path / "model.safetensors", {"clip/logit_scale": np.zeros((), np.float32)})
    with pytest.raises(UserError, match=r"do not train are not there \(clip/image/.*, …\); add"):
        models.initialize_model(tiny.config(pretrained=str(tmp_path)))


def test_random_frozen_weights_are_announced(tiny_run, capsys):
    notes = models.warning_notes(tiny.config(), {"clip/frozen": np.zeros(1)})
    assert "RANDOM" in notes["warning"] and "RANDOM" in capsys.readouterr().err
    assert not models.warning_notes(tiny.config(), {})  # a model that trains whole may start so
    assert not models.warning_notes(tiny.config(pretrained="x"), {"clip/frozen": np.zeros(1)})
    models.load_run(tiny.config(), tiny_run)
    assert "RANDOM" in capsys.readouterr().err


def test_model_files_describe_the_model(tiny_run):
    description = json.loads((tiny_run / "model.json").read_text())
    assert description["system"]["name"] == "zegclip"
    assert description["image"]["mean"] == list(tiny.config().image.mean)
    assert (tiny_run / "tokenizer.json").is_file()


def test_an_exported_run_is_a_model_folder(tiny_run, tmp_path):
    models.export_model(tiny_run, tmp_path / "model")
    weights = load_weights(tmp_path / "model" / "model.safetensors")
    assert weights.keys() == models.load_run(tiny.config(), tiny_run).params.keys()
    exported = models.load_run(tiny.config(), tmp_path / "model")  # which has no checkpoint
    assert weights.keys() == exported.params.keys()
    with pytest.raises(UserError, match="holds a whole model and no run; evaluate it"):
        train(tiny.config(), tmp_path / "model")
    notes = json.loads((tmp_path / "model" / "model.json").read_text())["notes"]
    assert notes["train"]["steps"] == 4


def test_the_dense_read_out_shares_the_clip(tiny_run):
    config, model = models.training_free(tiny.config(), models.load_run(tiny.config(), tiny_run))
    assert config.system.name == "clip"
    _, params, _ = split_model(model.system())
    assert params.keys() == model.params.keys() and all(k.startswith("clip/") for k in params)


def test_only_the_training_subset_competes(tiny_run):
    config = tiny.config()
    model = models.load_run(config, tiny_run)
    seen = models.create_vocabulary(config, model, "seen")
    everything = models.create_vocabulary(config, model, "all")
    assert (len(seen.class_ids), len(everything.class_ids)) == (56, 70)
    assert np.asarray(seen.seen).all() and np.asarray(everything.seen).sum() == 56
    np.testing.assert_allclose(np.linalg.norm(everything.embeddings, axis=-1), 1, rtol=1e-5)


def test_batches_hold_what_the_step_needs_and_no_more():
    config = tiny.config()
    batch = next(models.create_loader(config, config.data.train, 4).batches())
    assert set(batch) == {"image", "label", "size", "valid"}
    assert batch["image"].shape == (4, 48, 48, 3) and batch["image"].dtype == np.uint8
