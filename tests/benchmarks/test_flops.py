"""The count of operations against the matrix products that JAX traces, and that count."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops, machine
from ovseg_jax.networks.layers import convolve
from ovseg_jax.networks.zegclip import prompted_features
from ovseg_jax.params import abstract_model, merge_model
from ovseg_jax.systems import create_system
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import split_trainable

CLASSES = 5


def test_traced_products_convolutions_and_loops():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def convolved(x, kernel):
        return convolve(x, kernel, stride=2).sum()

    once = 2.0 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    assert flops.traced(convolved, x, kernel) == once
    # The gradients by the pictures and by the kernel, and the result that comes with them.
    assert flops.traced(jax.value_and_grad(convolved, (0, 1)), x, kernel) == 3 * once
    rows = jnp.ones((4, 6, 7))
    assert (
        flops.traced(lambda rows: jax.lax.map(lambda r: r @ r.T, rows), rows) == 4 * 2 * 6 * 6 * 7
    )
    assert flops.traced(lambda rows: (rows[0] @ rows[0].T, rows + 1)[1], rows) == 0


@pytest.fixture(scope="module")
def parts():
    config = machine.load_recipe("demo")
    graphdef, params, stats = abstract_model(lambda rngs: create_system(config, rngs))
    groups = merge_model(graphdef, params, stats).param_groups()
    trainable, frozen = split_trainable(params, groups)
    return config, trainable, lambda t, f: merge_model(graphdef, {**t, **f}, stats), frozen


def test_image_encoder(parts):
    config, trainable, system, frozen = parts
    image = jnp.zeros((2, 96, 96, 3))

    def encode(trainable, frozen):
        model = system(trainable, frozen)
        return prompted_features(model.clip.image, model.prompts, image)[:2]

    def scalar(*arguments):
        return sum(x.sum() for x in encode(*arguments))

    work = flops.image_encoder(config, 144) * 2 + flops.prompt_projection(config)
    assert flops.traced(encode, trainable, frozen) == pytest.approx(work.forward, rel=0.01)
    traced = flops.traced(jax.value_and_grad(scalar), trainable, frozen)
    assert traced == pytest.approx(work.total, rel=0.01)


def test_decoder(parts):
    config, trainable, system, frozen = parts
    dim = config.system.clip.embed_dim
    features = (jnp.ones((2, dim)), jnp.ones((2, 144, dim)))

    def decode(trainable, features, frozen):
        return system(trainable, frozen).head(jnp.ones((CLASSES, dim)), *features)[0].sum()

    work = flops.decoder(config, 144, CLASSES) * 2
    traced = flops.traced(decode, trainable, features, frozen)
    assert traced == pytest.approx(work.forward, rel=0.01)
    traced = flops.traced(jax.value_and_grad(decode, (0, 1)), trainable, features, frozen)
    assert traced == pytest.approx(work.total, rel=0.01)


def test_optimizer(parts):
    config, trainable, system, frozen = parts
    groups = system(trainable, frozen).param_groups()
    optimizer = build_optimizer(config.optimizer, config.schedule, 10, groups, trainable)
    state = jax.eval_shape(optimizer.init, trainable)
    traced = flops.traced(optimizer.update, trainable, state, trainable)
    shapes = {path: value.shape for path, value in trainable.items()}
    assert traced == pytest.approx(flops.optimizer(config, shapes), rel=0.01)


def test_real_size_is_dominated_by_the_image_encoder():
    config = machine.load_recipe("real")
    encoder = flops.image_encoder(config, 1024).forward
    assert 230e9 < encoder < 250e9  # 12 blocks of 24·n·d² + 4·n²·d at n = 1125, d = 768
    assert flops.decoder(config, 1024, 171).forward < 0.05 * encoder
