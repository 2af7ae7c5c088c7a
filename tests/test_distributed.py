"""Two processes train and evaluate as one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.datasets import prepare

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """
from configs.shapes import zegclip


def get_config():
    config = zegclip.get_config()
    config.pretrained = ""
    config.system.clip.image.update(image_size=32, width=32, layers=2, heads=2)
    config.system.clip.text.update(width=32, layers=1, heads=2)
    config.system.clip.embed_dim = 32
    config.system.update(
        prompt_tokens=2, prompt_depth=1, decoder_layers=1, decoder_heads=2, decoder_hidden=32,
        # Which numbers are dropped may depend on how the batch is split over devices.
        dropout=0.0,
    )
    config.vocabulary.tokenizer = "shapes"
    config.data.train.source.canvas = 32
    config.optimizer.name = "adamw"
    config.data.eval.source.update(size=3, canvas=32)
    config.eval.update(batch_size=2, training_free=False)
    config.train.update(batch_size=4, steps=2, log_every=1, eval_every=1)
    return config
"""
# Writes what an evaluation found, once, of pixels with boundaries and of episodes.
EVALUATE = """
import importlib.util, json, pathlib, sys
recipe, episodes, found, *job = sys.argv[1:]
import jax
from ovseg_jax import models
from ovseg_jax.evaluate import evaluate_model
from ovseg_jax.training.mesh import join_processes

if job:
    join_processes()
    assert jax.process_count() == 2
spec = importlib.util.spec_from_file_location("recipe", recipe)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
config = module.get_config()
model = models.create_model(config, *models.initialize_model(config))
# Pictures one by one: how sums are rounded may depend on the place in a batch.
config.eval.update(batch_size=1, boundary=0.02, oracle="vocabulary")
results = [evaluate_model(config, model)[0]]
config.eval.update(boundary=0.0, oracle="", dataset="pascal5i_0", root=episodes)
results.append(evaluate_model(models.on_dataset(config), model)[0])
if jax.process_index() == 0:
    pathlib.Path(found).write_text(json.dumps(results))
"""
SECONDS = 120  # a process whose peer has died hangs
# Compiling takes longest; one thread each, as the processes share the cores.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
}
FSDP = "--config.mesh.fsdp=2"  # so that no process holds all parameters


def free_port() -> int:
    """A port to meet at; skips where this machine allows no sockets."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no local sockets: {error}")


def call(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(recipe: Path, workdir: Path, *flags: str, **environment: str) -> subprocess.Popen:
    command = ["-m", "ovseg_jax.main", "--config", str(recipe), "--workdir", str(workdir)]
    return call(*command, "--mode", "train", *flags, **environment)


def job() -> list[dict[str, str]]:
    """The environments of two processes that meet."""
    meeting = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    return [meeting | {"JAX_PROCESS_ID": str(number)} for number in range(2)]


def finish(processes: list[subprocess.Popen]) -> None:
    try:
        for process in processes:
            _, messages = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, messages[-3000:]
    finally:
        for process in processes:
            process.kill()


def logged(workdir: Path, name: str) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [values[name] for values in map(json.loads, lines) if name in values]


def test_two_processes_train_as_one(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    finish(
        [start(recipe, tmp_path / "one")]
        + [start(recipe, tmp_path / "two", "--distributed", FSDP, **place) for place in job()]
    )
    one, two = (logged(tmp_path / run, "loss") for run in ("one", "two"))
    assert len(one) == 2
    assert two == pytest.approx(one, rel=1e-5)
    one, two = (logged(tmp_path / run, "aAcc") for run in ("one", "two"))
    assert len(one) == 1
    assert two == pytest.approx(one, abs=0.5)  # per cent; ties may fall either way


def test_two_processes_count_what_one_counts(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    prepare("pascal5i", tmp_path / "voc", None, 1)
    arguments = ("-c", EVALUATE, str(recipe), str(tmp_path / "voc"))
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    together = [call(*arguments, str(two), "job", **place) for place in job()]
    finish([call(*arguments, str(one)), *together])
    pixels, episodes = json.loads(one.read_text())
    assert pixels["images"] == 3 and pixels["confusions"] and pixels["boundary_mIoU"] > 0
    assert episodes["images"] > 1 and episodes["FB-IoU"] > 0
    assert two.read_text() == one.read_text()


def test_distributed_without_a_job_is_one_sentence(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    process = start(recipe, tmp_path / "run", "--distributed")
    _, messages = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "JAX_COORDINATOR_ADDRESS" in messages.strip().splitlines()[-1]
