import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ovseg_jax.errors import UserError
from ovseg_jax.training import mesh as meshes

# One step of a tiny ZegCLIP on each mesh, in a process that pretends to have eight devices.
ONE_STEP = """
import functools, json, sys
import jax
import tiny
from jax.sharding import AxisType
from ovseg_jax import models
from ovseg_jax.params import merge_model
from ovseg_jax.train import initial_state, make_train_step
from ovseg_jax.training import mesh as meshes
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import split_trainable

config = tiny.config(train__batch_size=8)
graphdef, params, stats = models.initialize_model(config)
groups = merge_model(graphdef, params, stats).param_groups()
trainable, frozen = split_trainable(params, groups)
model = models.create_model(config, graphdef, params, stats)
vocabulary = models.create_vocabulary(config, model, "seen")
batch = next(models.create_loader(config, config.data.train, 8).batches())
optimizer = build_optimizer(config.optimizer, config.schedule, 10, groups, trainable)
init = functools.partial(initial_state, optimizer=optimizer, ema=False)
shapes = jax.eval_shape(init, trainable, stats)
step = make_train_step(graphdef, optimizer, config)
for data, fsdp in ((1, 1), (8, 1), (4, 2)):
    devices = jax.devices()[: data * fsdp]
    types = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((data, fsdp), meshes.AXES, axis_types=types, devices=devices)
    shardings = meshes.state_shardings(shapes, trainable, mesh)
    whole = meshes.replicated(mesh)
    state = jax.jit(init, out_shardings=shardings)(trainable, stats)
    placed = jax.device_put(frozen, meshes.param_shardings(frozen, mesh))
    key, words = jax.device_put((jax.random.key(0), vocabulary), whole)
    run = jax.jit(step, out_shardings=(shardings, whole))
    state, scalars = run(state, placed, words, meshes.put_batch(batch, mesh), key)
    split = [p for p, a in state["params"].items() if not a.sharding.is_fully_replicated]
    print(json.dumps({"split": len(split), **{k: float(v) for k, v in scalars.items()}}))
"""


def test_one_step_is_the_same_on_every_mesh():
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the work
        "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}",
    }
    shown = subprocess.run(
        [sys.executable, "-c", ONE_STEP], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    one, data, both = map(json.loads, shown.stdout.splitlines())
    assert one["split"] == data["split"] == 0 and both["split"] > 5
    for other in (data, both):
        for name in ("loss", "grad_norm", "loss_mask", "loss_dice", "pixel_accuracy"):
            assert other[name] == pytest.approx(one[name], rel=1e-5), name


@pytest.fixture
def mesh():
    """Stands for 4 × 2 devices: rules only look at its shape."""
    return jax.sharding.AbstractMesh((4, 2), meshes.AXES)


def specs(mesh, **shapes):
    leaves = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}
    return {k: v.spec for k, v in meshes.param_shardings(leaves, mesh).items()}


def test_rules(mesh):
    found = specs(
        mesh,
        **{
            "clip/text/token_embedding": (10, 6),
            "clip/image/patch_embed/kernel": (8, 8, 3, 6),
            "clip/image/projection": (5, 6),
            "head/fc/kernel": (3, 4),
            "head/fc/bias": (4,),
            "odd/kernel": (4, 3),
            "conv/kernel": (3, 3, 4, 4),
        },
    )
    assert found == {
        "clip/text/token_embedding": P("fsdp", None),
        "clip/image/patch_embed/kernel": P(None, None, None, "fsdp"),
        "clip/image/projection": P(None, "fsdp"),
        "head/fc/kernel": P(None, "fsdp"),
        "head/fc/bias": P(),
        "odd/kernel": P(),  # 3 does not divide
        "conv/kernel": P(),  # no rule for its rank
    }


def test_moments_lie_like_their_parameters(mesh):
    params = {"fc/kernel": jax.ShapeDtypeStruct((3, 4), np.float32)}
    scalar = jax.ShapeDtypeStruct((), np.int32)
    state = {"step": scalar, "opt_state": (scalar, params), "stats": {"fc/kernel": scalar}}
    found = meshes.state_shardings(state, params, mesh)
    assert found["opt_state"][1]["fc/kernel"].spec == P(None, "fsdp")
    assert found["step"].spec == found["opt_state"][0].spec == P()
    assert found["stats"]["fc/kernel"].spec == P()  # same path, another shape


@pytest.mark.parametrize("fsdp", [0, -1, 3])
def test_an_axis_that_does_not_divide_the_devices(fsdp):
    with pytest.raises(UserError, match=rf"config.mesh.fsdp={fsdp} does not divide"):
        meshes.create_mesh(fsdp)


def test_batches_are_global_arrays():
    mesh = meshes.create_mesh()
    batch = meshes.put_batch({"image": np.ones((4, 2, 2, 3), np.uint8)}, mesh)
    assert batch["image"].shape == (4, 2, 2, 3) and batch["image"].dtype == np.uint8
    assert batch["image"].sharding == meshes.batch_sharding(mesh)
