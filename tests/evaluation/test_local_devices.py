"""All devices of a process share its pictures, and figures do not depend on their number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# 23 pictures of two shapes, 20 and 3: a full batch of eight devices, and two that are filled up.
EVALUATE = """
import dataclasses, json
import jax, numpy as np
from fake_system import NAMES, color_model, color_vocabulary, scene
from ovseg_jax.devices import local_mesh, on_local_devices
from ovseg_jax.evaluation.episodes import episode_space, evaluate_episodes
from ovseg_jax.evaluation.pixels import evaluate_segmentation
from ovseg_jax.inference import Protocol, lay_on_canvas, segment_canvases
from ovseg_jax.text.label_space import LabelSpace

model, words = on_local_devices((color_model(), color_vocabulary()))
protocol = Protocol(short_side=32, crop=32, stride=16)
found = [scene(*((40, 60) if n % 8 else (37, 52)), seed=n) for n in range(23)]
examples = [{"image": image, "label": label} for image, label in found]
space = LabelSpace("colours", tuple((name,) for name in NAMES))
results = [
    evaluate_segmentation(
        model, words, examples, space, protocol, oracle=oracle, boundary=0.02, batch_size=2
    )[0]
    for oracle in ("", "vocabulary", "masks")
]
folds = episode_space(space, (1, 2), ("others",))
asked = [
    {**example, "label": (example["label"] == 1 + n % 2).astype(np.int32), "class_id": 1 + n % 2}
    for n, example in enumerate(examples)
]
others = dataclasses.replace(words, class_ids=np.int32([0, 2, 3, 0] + [-1] * 4))
results.append(evaluate_episodes(model, others, asked, folds, protocol, batch_size=2)[0])
canvases = [lay_on_canvas(found[1][0], protocol)] * jax.device_count()
labels, _ = segment_canvases(model, words, canvases, protocol, mesh=local_mesh())
print(json.dumps([len(labels.sharding.device_set), labels.addressable_shards[0].data.shape[0]]))
print(json.dumps(results))
"""


def run(devices: int) -> list:
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the work
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS))),
    }
    shown = subprocess.run(
        [sys.executable, "-c", EVALUATE], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_figures_are_the_same_on_eight_devices():
    (spread, one), (spread_more, eight) = run(1), run(8)
    assert spread == [1, 1] and spread_more == [8, 1]
    assert eight[:3] == one[:3] and one[0]["images"] == 23 and one[0]["aAcc"] > 50
    # More names at once are rounded otherwise, which decides a pixel or two.
    assert eight[3]["IoU"] == pytest.approx(one[3]["IoU"], abs=0.05)
