"""What is counted on several devices is what one device counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

# In a process that pretends to have eight devices: a batch on one of them, and spread over all.
COUNT = """
import json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from ovseg_jax.metrics.boundary import boundary_confusion
from ovseg_jax.metrics.confusion import confusion_matrix
from ovseg_jax.metrics.few_shot import episode_counts

assert jax.device_count() == 8

@jax.jit
def count(label, prediction):
    episodes = episode_counts(prediction == 1, label == 1, label == 255)
    return (
        confusion_matrix(label, prediction, 5),
        boundary_confusion(label, prediction, 5),
        *episodes,
    )

rng = np.random.default_rng(0)
label = rng.choice([0, 1, 2, 3, 4, 7, 255], (16, 20, 30))
prediction = rng.integers(0, 5, label.shape)
for devices in (1, 8):
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    counts = count(*jax.device_put((label, prediction), NamedSharding(mesh, P("data"))))
    print(json.dumps([np.asarray(part).tolist() for part in counts]))
"""


def test_counts_are_the_same_on_eight_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the work
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    shown = subprocess.run(
        [sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    one, eight = map(json.loads, shown.stdout.splitlines())
    assert eight == one and sum(map(sum, one[0])) > 0
