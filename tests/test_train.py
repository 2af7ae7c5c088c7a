"""The loop: exact resumption, one compilation, mistakes that end in one sentence."""

import json
import logging
import os
import shutil

import jax
import numpy as np
import pytest
import tiny

from data_pipelines import sources
from data_pipelines.sources import create_source
from ovseg_jax import train as loop
from ovseg_jax.errors import UserError
from ovseg_jax.models import load_folder_weights
from ovseg_jax.params import merge_model
from ovseg_jax.train import check_same_run, train
from ovseg_jax.training.checkpoints import choose_step, saved_steps

pytestmark = pytest.mark.usefixtures("compiling_fast")


def metrics(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}


def assert_same_weights(one, other):
    one, other = load_folder_weights(one), load_folder_weights(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def damage(workdir, step):
    for path in (workdir / "checkpoints" / str(step)).rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


def test_a_run_folder_is_complete(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "frozen.safetensors",
        "metrics.jsonl",
        "model.json",
        "tokenizer.json",
    }
    assert saved_steps(tiny_run) == [2, 4]
    lines = metrics(tiny_run)
    assert list(lines) == [1, 2, 3, 4]
    for key in ("loss", "grad_norm", "loss_mask", "loss_dice", "images_per_second"):
        assert np.isfinite(lines[4][key])


def test_only_trainable_parameters_move(tiny_run):
    from ovseg_jax import models

    config = tiny.config()
    graphdef, before, stats = models.initialize_model(config)
    after = load_folder_weights(tiny_run)
    groups = merge_model(graphdef, before, stats).param_groups()
    trainable, frozen = loop.split_trainable(before, groups)
    for path in frozen:
        np.testing.assert_array_equal(before[path], after[path], err_msg=path)
    still = [path for path in trainable if np.array_equal(before[path], after[path])]
    assert not still


class HalfDamaged:
    """A source of which every other example cannot be read."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index % 2:
            raise UserError("the file is damaged")
        return self.source[index]


def test_what_could_not_be_read_is_said_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "create_source", lambda spec: HalfDamaged(create_source(spec)))
    train(tiny.config(unreadable="skip"), tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("skipping example") for line in lines)
    assert "examples could not be read by this process since it started" in lines[-1]
    assert "unreadable" not in metrics(tmp_path / "run")[4]


def test_stopped_and_resumed_equals_uninterrupted(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "progress_bar", interrupted_bar(after=3))
    with pytest.raises(KeyboardInterrupt):
        train(tiny.config(), tmp_path / "run")
    monkeypatch.undo()
    assert saved_steps(tmp_path / "run") == [2] and list(metrics(tmp_path / "run")) == [1, 2]
    train(tiny.config(), tmp_path / "run")
    assert "at step 2" in capsys.readouterr().err
    assert_same_weights(tmp_path / "run", tiny_run)
    assert metrics(tmp_path / "run")[4]["loss"] == metrics(tiny_run)[4]["loss"]
    assert list(metrics(tmp_path / "run")) == [1, 2, 3, 4]


def interrupted_bar(after: int):
    class Bar:
        """A progress bar that is interrupted like a run by Ctrl-C."""

        def __init__(self, *_, **__):
            self.steps = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self):
            self.steps += 1
            if self.steps == after:
                raise KeyboardInterrupt

        def set_postfix(self, **_):
            pass

    return Bar


def test_a_finished_run_stays_as_it_is(tiny_run):
    before = (tiny_run / "metrics.jsonl").read_text()
    assert train(tiny.config(), tiny_run) == {}
    assert (tiny_run / "metrics.jsonl").read_text() == before
    assert saved_steps(tiny_run) == [2, 4]


def test_a_damaged_checkpoint_is_reported_and_left_out_when_asked(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    damage(run, 4)
    with pytest.raises(UserError, match=r"checkpoints/4 is damaged .*--resume=previous"):
        train(tiny.config(), run)
    assert saved_steps(run) == [2, 4]
    train(tiny.config(), run, resume="previous")
    assert saved_steps(run) == [2, 4]
    assert_same_weights(run, tiny_run)


def test_which_checkpoint(tmp_path, tiny_run):
    assert choose_step(tiny_run, "latest") == 4 and choose_step(tiny_run, "previous") == 2
    assert choose_step(tmp_path, "latest") is None
    with pytest.raises(UserError, match="no checkpoint before the newest"):
        choose_step(tmp_path, "previous")
    with pytest.raises(UserError, match="--resume=first is unknown"):
        choose_step(tmp_path, "first")


def test_another_recipe_does_not_go_into_the_same_folder(tiny_run):
    with pytest.raises(UserError, match=r"another recipe \(section optimizer, train differs\)"):
        train(tiny.config(optimizer__lr=0.5, train__steps=9), tiny_run)
    check_same_run(tiny_run, tiny.config(train__log_every=7, eval__flip=True, mesh__fsdp=2))


def test_five_steps_compile_once(tmp_path, caplog):
    config = tiny.config(train__steps=5, train__checkpoint_every=0, train__ema_decay=0.9)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train(config, tmp_path / "run")
    compiled = [r for r in caplog.messages if r.startswith("Compiling jit(train_step)")]
    assert len(compiled) == 1
    assert saved_steps(tmp_path / "run") == [5]  # 0 = only at the end


def test_evaluation_on_the_way_sees_the_averaged_weights(tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model)
        return {"mIoU": 12.5}

    config = tiny.config(train__eval_every=2, train__ema_decay=1.0)
    train(config, tmp_path / "run", evaluate=evaluate)
    assert len(seen) == 1 and metrics(tmp_path / "run")[2]["mIoU"] == 12.5
    start = loop.models.initialize_model(config)[1]
    for path, value in seen[0].params.items():  # an average that never moves
        np.testing.assert_array_equal(value, start[path], err_msg=path)


def test_a_loss_that_is_not_finite_is_not_saved(tmp_path):
    config = tiny.config(system__dice_weight=float("nan"), train__log_every=0)
    with pytest.raises(UserError, match=r"the loss is nan at step 2; .* config.optimizer.lr"):
        train(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary__label_space": "shape"}, "unknown label space 'shape'"),
        ({"vocabulary__templates": "shap"}, "shap"),
        ({"pretrained": "nowhere"}, "no model folder at nowhere"),
        ({"mesh__fsdp": 3}, "config.mesh.fsdp=3 does not divide"),
        ({"optimizer__name": "lion"}, "unknown optimizer 'lion'"),
        ({"schedule__name": "step"}, "unknown schedule 'step'"),
        ({"system__name": "zegclap"}, "did you mean 'zegclip'"),
        ({"data__train__source__split": "training"}, "unknown split 'training'"),
        ({"train__batch_size": 0}, "batch"),
    ],
)
def test_mistakes_leave_nothing_behind(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train(tiny.config(**changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
