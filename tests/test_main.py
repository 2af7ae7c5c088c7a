"""The command: kill and resume, and mistakes that end in one sentence and exit status 1."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from ovseg_jax import evaluate, train
from ovseg_jax import main as command
from ovseg_jax.models import load_folder_weights
from ovseg_jax.training.checkpoints import saved_steps

ROOT = Path(__file__).parents[1]
LONG = dict(train__steps=12, train__checkpoint_every=4)

pytestmark = pytest.mark.usefixtures("compiling_fast")


def start(arguments, **options):
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    call = [sys.executable, "-m", "ovseg_jax.main", *arguments[1:]]
    return subprocess.Popen(call, cwd=ROOT, env=environment, stderr=subprocess.PIPE, **options)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]


def kill_while_saving(process, step, workdir):
    """Kills a run once its checkpoint of a step is begun, whole or not."""
    folder = workdir / "checkpoints"
    while not any(folder.glob(f"{step}*")):
        assert process.poll() is None, process.stderr.read().decode()[-3000:]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_run_ends_like_an_uninterrupted_one(tmp_path):
    finish(start(tiny.arguments(tmp_path / "whole", **LONG)))
    again = tiny.arguments(tmp_path / "killed", **LONG)
    kill_while_saving(start(again), 8, tmp_path / "killed")
    left = saved_steps(tmp_path / "killed")
    assert left and left[-1] < 12 and not (tmp_path / "killed" / "result.json").exists()
    finish(start(again))
    one, other = (load_folder_weights(tmp_path / name) for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)
    one, other = ((tmp_path / name / "result.json").read_text() for name in ("whole", "killed"))
    assert one == other
    assert json.loads(one)["images"] == 8 and (tmp_path / "killed/report/index.html").is_file()


def test_evaluations_during_training_are_without_oracle_and_boundaries(tmp_path, monkeypatch):
    seen = []

    def evaluate_model(config, model):
        seen.append((config.eval.oracle, config.eval.boundary, config.eval.crop))
        return {"mIoU": 1.0}, {}

    def evaluate_run(config, workdir, checkpoint):
        seen.append((config.eval.oracle, config.eval.boundary, config.eval.crop))

    monkeypatch.setattr(train, "train", lambda *_, evaluate, **__: evaluate(None))
    monkeypatch.setattr(evaluate, "evaluate_model", evaluate_model)
    monkeypatch.setattr(evaluate, "evaluate_run", evaluate_run)
    overrides = dict(eval__oracle="masks", eval__boundary=0.02)
    command.main(tiny.arguments(tmp_path / "run", **overrides))
    assert seen == [("", 0.0, 48), ("masks", 0.02, 48)]


# --- Mistakes ---------------------------------------------------------------------------------


def complaint(arguments, monkeypatch, capsys) -> str:
    """Runs the command in this process; returns its one sentence."""
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        command.run()
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    sentences = [line for line in lines if line.startswith("ovseg: ")]
    assert len(sentences) == 1 and lines[-1] == sentences[0]
    assert not any("Traceback" in line for line in lines)
    return sentences[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recipe given; add --config"),
        (["--config"], "no recipe given"),
        (["--config=configs/nowhere.py"], "no recipe at configs/nowhere.py"),
        ([f"--config={tiny.RECIPE}:inductiv"], "setting inductiv is none of inductive,"),
        (
            [f"--config={tiny.RECIPE}", "--mode=test"],
            "should be one of <train_and_eval|train|eval>",
        ),
        ([f"--config={tiny.RECIPE}", "--resume=first"], "should be one of <latest|previous>"),
        ([f"--config={tiny.RECIPE}", "--mod=eval"], "Did you mean: mode"),
        ([f"--config={tiny.RECIPE}", "train"], "unexpected argument train"),
        ([f"--config={tiny.RECIPE}", "--config.optimizer.rate=3"], "no key config.optimizer.rate"),
        ([f"--config={tiny.RECIPE}", "--config.optimiser.lr=3"], "did you mean config.optimizer?"),
        ([f"--config={tiny.RECIPE}", "--config.train.step=3"], "did you mean config.train.steps?"),
        ([f"--config={tiny.RECIPE}", "--config.seed.x=3"], "config.seed is a value"),
        ([f"--config={tiny.RECIPE}", "--config.train.steps=1.5"], "--config.train.steps=1.5"),
        ([f"--config={tiny.RECIPE}", "--config.train.steps=many"], "--config.train.steps=many"),
        ([f"--config={tiny.RECIPE}", "--config.image.mean=grey"], "give something like (122.7"),
        (["--config.seed=3", f"--config={tiny.RECIPE}"], "Found --config.seed=3 in argv before"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, tmp_path, monkeypatch, capsys):
    arguments = ["main", *arguments, f"--workdir={tmp_path / 'run'}"]
    if arguments[1] == "--config":
        arguments = arguments[:2]
    assert message in complaint(arguments, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pretrained": "models/nowhere"}, "no model folder at models/nowhere"),
        (
            {"vocabulary__label_space": "shape"},
            "did you mean 'shapes'",
        ),
        ({"vocabulary__templates": "shape"}, "shape"),
        ({"data__eval__source__split": "tests"}, "unknown split 'tests'"),
        ({"eval__metrics": "miou"}, "unknown metrics 'miou'"),
        ({"system__name": "zegclap"}, "did you mean 'zegclip'"),
    ],
)
def test_mistakes_in_values(overrides, message, tmp_path, monkeypatch, capsys):
    arguments = tiny.arguments(tmp_path / "run", **overrides)
    assert message in complaint(arguments, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


def test_evaluation_without_a_run(tmp_path, monkeypatch, capsys):
    arguments = [*tiny.arguments(tmp_path / "run"), "--mode=eval"]
    assert "no model folder at" in complaint(arguments, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_run_folder_of_other_sizes(mode, tiny_run, monkeypatch, capsys):
    before = sorted(tiny_run.rglob("*"))
    arguments = [*tiny.arguments(tiny_run, system__decoder_hidden=24), f"--mode={mode}"]
    expected = "head/layers/0/mlp/fc1" if mode == "eval" else "section system differs"
    assert expected in complaint(arguments, monkeypatch, capsys)
    assert sorted(tiny_run.rglob("*")) == before


def test_an_unreadable_image_is_named(tmp_path, monkeypatch, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for stem in ("good", "bad"):
            shape = (48, 48, 3)[: 3 if name == "images" else 2]
            cv2.imwrite(str(tmp_path / name / f"{stem}.png"), np.zeros(shape, np.uint8))
    (tmp_path / "images" / "bad.png").write_bytes(b"\x89PNG and then nothing")
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from configs.shapes import zegclip\n"
        "def get_config():\n"
        "    config = zegclip.get_config()\n"
        "    config.data.train.source = dict(name='folder',\n"
        f"        images={str(tmp_path / 'images')!r}, labels={str(tmp_path / 'labels')!r})\n"
        "    return config\n"
    )
    arguments = tiny.arguments(tmp_path / "run", recipe, train__batch_size=2)
    arguments = [a for a in arguments if not a.startswith("--config.data.train.source")]
    assert str(tmp_path / "images" / "bad.png") in complaint(arguments, monkeypatch, capsys)
    assert saved_steps(tmp_path / "run") == []


def test_another_place_or_another_source():
    recipe = f"--config={ROOT / 'configs' / 'zegclip' / 'voc_inductive.py'}"
    own = "--config.data.eval.source={'name': 'folder', 'images': 'photos'}"
    data = command.parse(["main", recipe, own, "--config.data.train.source.root=sets"]).config.data
    assert data.eval.source.to_dict() == dict(name="folder", images="photos")
    assert data.train.source.to_dict() == dict(
        name="voc", root="sets", split="trainaug", background="ignored"
    )


# --- Help and names ---------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_examples(flag, capsys):
    command.main(["main", flag])
    shown = capsys.readouterr().out
    assert "python -m ovseg_jax.main --config configs/shapes/zegclip.py --mode eval" in shown
    for name in ("--config", "--workdir", "--mode", "--resume"):
        assert name in shown


def test_default_workdir():
    assert command.default_workdir("configs/shapes/clip.py:objects") == Path(
        "runs/shapes_clip_objects"
    )
    assert command.default_workdir("configs/zegclip/voc_full.py") == Path("runs/zegclip_voc_full")
