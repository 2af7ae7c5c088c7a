import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.training.schedules import build_schedule


def section(**changes) -> ConfigDict:
    fields = dict(name="poly", warmup_steps=1500, warmup_ratio=1e-6, power=0.9, min_lr=1e-6)
    return ConfigDict(fields | changes)


def rates(config, base, steps, at):
    return np.asarray(jax.jit(build_schedule(config, base, steps))(jnp.asarray(at, jnp.int32)))


@pytest.mark.parametrize("length", [10, 20, 40, 80])
def test_published_schedules(golden, length):
    """ZegCLIP's four lengths as mmcv computes them, in float64."""
    with np.load(golden / "zegclip" / "optim.npz") as file:
        steps, expected = file[f"sched/{length}k_iters"], file[f"sched64/{length}k_lr"]
    np.testing.assert_allclose(rates(section(), 2e-4, length * 1000, steps), expected, rtol=2e-6)


def test_cosine_goes_from_base_to_the_smallest_rate():
    config = section(name="cosine", warmup_steps=0, min_lr=0.1)
    np.testing.assert_allclose(
        rates(config, 1.1, 8, [0, 2, 4, 8, 20]),
        [1.1, 0.6 + 0.5 * np.sqrt(0.5), 0.6, 0.1, 0.1],
        rtol=1e-6,
    )


def test_constant_with_warmup():
    config = section(name="constant", warmup_steps=4, warmup_ratio=0.5)
    np.testing.assert_allclose(rates(config, 2.0, 9, [0, 2, 4, 9]), [1, 1.5, 2, 2], rtol=1e-6)


def test_constant_warmup_replaces_the_schedule(golden):
    """detectron2's, in float64, to the last steps."""
    with np.load(golden / "maskformer" / "lr_schedules.npz") as file:
        steps, expected, _ = file["out/lr_2"].T
    config = section(
        name="cosine", min_lr=0.0, warmup="constant", warmup_steps=100, warmup_ratio=0.005
    )
    np.testing.assert_allclose(rates(config, 0.02, 1600, steps), expected, rtol=2e-6)


def test_unknown_warmup():
    with pytest.raises(UserError, match="unknown warmup 'exponential'"):
        build_schedule(section(warmup="exponential"), 1.0, 10)


def test_rates_are_float32_scalars():
    for name in ("poly", "cosine", "constant"):
        rate = build_schedule(section(name=name), 1.0, 10)(jnp.asarray(3, jnp.int32))
        assert rate.dtype == jnp.float32 and rate.shape == ()


def test_unknown_name():
    with pytest.raises(UserError, match="unknown schedule 'step'"):
        build_schedule(section(name="step"), 1.0, 10)
