import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.training.optimizers import build_optimizer, clip_by_global_norm
from ovseg_jax.training.partition import ParamGroup

CONSTANT = ConfigDict(dict(name="constant", warmup_steps=0, warmup_ratio=1.0))
EVERYTHING = (ParamGroup(""),)


def section(**changes) -> ConfigDict:
    fields = dict(name="adamw", lr=0.1, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=0.0)
    return ConfigDict(fields | changes)


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"head/fc/kernel": (4, 6), "head/fc/bias": (6,), "prompts": (2, 3)}
    return {path: jnp.asarray(rng.normal(size=shape)) for path, shape in shapes.items()}


def gradients(step: int):
    rng = np.random.default_rng(1 + step)
    return {path: jnp.asarray(rng.normal(size=p.shape)) for path, p in parameters().items()}


def run(config, groups=EVERYTHING, steps=3):
    params = parameters()
    optimizer = build_optimizer(config, CONSTANT, 10, groups, params)
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def adamw(path, lr=0.1, decay=0.0, b1=0.9, b2=0.99, steps=3, scale=1.0):
    """Loshchilov & Hutter, algorithm 2, in float64."""
    value = np.asarray(parameters()[path], np.float64)
    first, second = np.zeros_like(value), np.zeros_like(value)
    for step in range(steps):
        gradient = scale * np.asarray(gradients(step)[path], np.float64)
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        unbiased = first / (1 - b1 ** (step + 1))
        spread = np.sqrt(second / (1 - b2 ** (step + 1))) + 1e-8
        value = value - lr * (unbiased / spread + decay * value)
    return value


def test_groups_scale_rate_and_decay():
    groups = (ParamGroup("bias$", weight_decay=0.0), ParamGroup("^head", lr=0.5), *EVERYTHING)
    params = run(section(weight_decay=0.2), groups)
    expected = {
        "head/fc/bias": adamw("head/fc/bias"),
        "head/fc/kernel": adamw("head/fc/kernel", lr=0.05, decay=0.2),
        "prompts": adamw("prompts", decay=0.2),
    }
    for path, value in expected.items():
        np.testing.assert_allclose(params[path], value, rtol=1e-5, err_msg=path)


def test_clipping_looks_at_all_groups_at_once():
    """One step, because the norm differs from step to step."""
    groups = (ParamGroup("^head"), ParamGroup("^prompts"))
    params = run(section(clip_norm=0.01, eps=1.0), groups, steps=1)
    norm = optax.tree.norm(gradients(0))
    for path, value in params.items():
        clipped = 0.01 / norm * gradients(0)[path]
        expected = parameters()[path] - 0.1 * clipped / (jnp.abs(clipped) + 1.0)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7, err_msg=path)


def test_sgd_adds_the_decay_to_the_clipped_gradient():
    """Momentum as PyTorch has it: no dampening, so the first step is a full one."""
    config = section(name="sgd", momentum=0.9, weight_decay=0.3, clip_norm=0.5)
    params = run(config, (ParamGroup("bias$", weight_decay=0.0), *EVERYTHING))
    for path, actual in params.items():
        decay = 0.0 if path.endswith("bias") else 0.3
        value, velocity = np.asarray(parameters()[path], np.float64), 0.0
        for step in range(3):
            clipped = 0.5 / float(optax.tree.norm(gradients(step))) * gradients(step)[path]
            velocity = 0.9 * velocity + (clipped + decay * value)
            value = value - 0.1 * velocity
        np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6, err_msg=path)


def test_clipping_divides_by_a_little_more_than_the_norm():
    """As PyTorch; it shows where the gradients are as small as the addend."""
    clip = clip_by_global_norm(1e-6)
    clipped, _ = clip.update({"a": jnp.array([3e-6, 4e-6])}, clip.init({}))
    np.testing.assert_allclose(clipped["a"], np.array([3e-6, 4e-6]) / 6, rtol=1e-6)
    kept, _ = clip_by_global_norm(1.0).update({"a": jnp.array([0.3, 0.4])}, clip.init({}))
    np.testing.assert_array_equal(kept["a"], jnp.array([0.3, 0.4]))


def test_muon_makes_orthogonal_updates_of_matching_matrices_only():
    config = section(name="muon", muon=dict(lr=0.1, pattern=r"kernel$|bias$"))
    params = run(config, steps=1)
    update = np.asarray(parameters()["head/fc/kernel"] - params["head/fc/kernel"])
    singular = np.linalg.svd(update, compute_uv=False) / (0.1 * 0.2 * np.sqrt(6))
    assert singular.min() > 0.6 and singular.max() < 1.3  # Newton-Schulz stops early
    for path in ("head/fc/bias", "prompts"):
        np.testing.assert_allclose(params[path], adamw(path, steps=1), rtol=1e-5, err_msg=path)


def test_shapes_suffice():
    params = parameters()
    shapes = jax.eval_shape(lambda: params)
    for config in (section(), section(name="muon", muon=dict(lr=0.1, pattern="kernel$"))):
        optimizer = build_optimizer(config, CONSTANT, 10, EVERYTHING, shapes)
        state = jax.eval_shape(optimizer.init, shapes)
        moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (4, 6)]
        assert len(moments) == (2 if config.name == "adamw" else 1)


def test_unknown_name():
    with pytest.raises(UserError, match="unknown optimizer 'lion'"):
        run(section(name="lion"))
