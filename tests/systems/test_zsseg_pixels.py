"""zsseg's baseline of pixels: which pixels teach, and how the picture's names enter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from ovseg_jax.networks.pixel_decoder import PixelDecoderConfig
from ovseg_jax.networks.resnet import ResNetConfig
from ovseg_jax.params import merge_model, split_model
from ovseg_jax.systems.zsseg_pixels import ZSSegPixels, ZSSegPixelsConfig
from ovseg_jax.text.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("compiling_fast")

CONFIG = ZSSegPixelsConfig(
    tiny.clip(),
    ResNetConfig(**tiny.BACKBONE),
    PixelDecoderConfig(**tiny.PIXEL_DECODER),
)


@pytest.fixture(scope="module")
def system() -> ZSSegPixels:
    return ZSSegPixels(CONFIG, rngs=nnx.Rngs(0))


def vocabulary(seen=(True, True, False), padding=0) -> Vocabulary:
    rows = np.random.default_rng(0).normal(size=(3, 8))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return Vocabulary(
        jnp.asarray(np.pad(rows, ((0, padding), (0, 0))), jnp.float32),
        jnp.asarray(np.pad([10, 20, 30], (0, padding), constant_values=-1)),
        jnp.asarray(np.pad(np.asarray(seen), (0, padding))),
    )


def picture(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(1, 64, 64, 3)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _loss(graphdef, params, stats, label, names):
    batch = {"image": picture(), "label": label}
    return merge_model(graphdef, params, stats).loss(batch, names, None)


def test_pixels_without_a_name_teach_nothing(system):
    label = np.full((1, 64, 64), 255)
    label[:, :32], label[:, 32:40] = 20, 77

    def loss(label, names):
        return _loss(*split_model(system), jnp.asarray(label), names)

    value, scalars = loss(label, vocabulary())
    assert 0 <= scalars["pixel_accuracy"] <= 1
    hidden = np.where(label == 77, 255, label)
    np.testing.assert_allclose(loss(hidden, vocabulary())[0], value, rtol=1e-6)
    np.testing.assert_allclose(loss(label, vocabulary(padding=2))[0], value, rtol=1e-5)
    assert loss(np.full((1, 64, 64), 255), vocabulary())[0] == 0


def test_the_weight_chooses_between_pixels_and_picture(system):
    features = system.encode(picture())
    names = vocabulary()
    maps = {}
    for weight in (-1.0, 0.7, 2.0):
        system.config = dataclasses.replace(CONFIG, ensemble_weight=weight)
        maps[weight] = np.asarray(system.decode(features, names, (61, 64)))
        assert maps[weight].shape == (1, 61, 64, 3)
    np.testing.assert_allclose(maps[-1.0], np.broadcast_to(maps[-1.0][:, :1, :1], (1, 61, 64, 3)))
    np.testing.assert_allclose(maps[2.0].sum(-1), 1, atol=1e-5)
    seen, unseen = (maps[2.0] ** w * maps[-1.0] ** (1 - w) for w in (0.7, 0.3))
    expected = np.concatenate([seen[..., :2], unseen[..., 2:]], axis=-1)
    np.testing.assert_allclose(maps[0.7], expected, rtol=1e-4)
