import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ovseg_jax.networks.positions import resize_positions
from ovseg_jax.networks.vit import DINO_SIZES, DinoConfig, ScaledBlock
from ovseg_jax.params import abstract_model, merge_model

TINY = DinoConfig(16, 4, width=8, layers=1, heads=2)
REGISTERS = DinoConfig(16, 4, width=8, layers=1, heads=2, layer_scale=True, registers=3)


def build(config: DinoConfig):
    """A network with random numbers everywhere."""
    graphdef, shapes, _ = abstract_model(lambda rngs: config.build(rngs=rngs))
    rng = np.random.default_rng(0)
    params = {
        path: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for path, leaf in shapes.items()
    }
    return merge_model(graphdef, params)


# In millions, as timm lists them.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("DINO ViT-S/16", 21.67), ("DINO ViT-B/8", 85.81), ("DINOv2 ViT-B/14", 86.58)],
)
def test_published_sizes(name, millions):
    _, params, _ = abstract_model(lambda rngs: DINO_SIZES[name].build(rngs=rngs))
    count = sum(math.prod(leaf.shape) for leaf in params.values())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("config", [TINY, REGISTERS])
def test_features_lie_on_the_grid(config):
    image = np.random.default_rng(0).normal(size=(2, 17, 27, 3)).astype(np.float32)
    model = build(config)
    features = jax.jit(lambda image: model(image))
    found = features(image)
    assert found.shape == (2, 4, 6, 8)
    image[:, 16:], image[:, :, 24:] = 7, 7  # remainders are cut off
    np.testing.assert_allclose(features(image), found, atol=1e-6)


def test_registers_come_after_the_class_token_and_have_no_position():
    model = build(REGISTERS)
    tokens = model.embed(jnp.zeros((1, 16, 24, 3)))[0]
    np.testing.assert_array_equal(tokens[1:4], model.registers[...])
    positions = resize_positions(model.positions[...], (4, 6), antialias=True)
    np.testing.assert_allclose(tokens[0], model.class_token[...] + positions[0], atol=1e-6)
    patches = model.patch_embed.bias[...] + positions[1:]
    np.testing.assert_allclose(tokens[4:], patches, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((16, 16), {"keep": True}), ((16, 17), {"keep": False}), ((8, 32), {"keep": False})],
)
def test_without_registers_only_square_images_keep_the_table(shape, options):
    model = build(TINY)
    grid = (shape[0] // 4, shape[1] // 4)
    positions = resize_positions(model.positions[...], grid, offset=0.1, **options)
    tokens = model.embed(jnp.zeros((1, *shape, 3)))[0]
    patches = model.patch_embed.bias[...] + positions[1:]
    np.testing.assert_allclose(tokens[1:], patches, atol=1e-6)


def test_fresh_branches_are_nearly_closed():
    block = ScaledBlock(8, 2, rngs=nnx.Rngs(0))
    tokens = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(lambda x: block(x))(tokens), tokens, atol=1e-3)
