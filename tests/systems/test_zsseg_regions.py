"""zsseg looks at the regions that exist, and adds its masks up as late as it can."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from ovseg_jax.inference import (
    Model,
    Protocol,
    compiled_segment,
    lay_on_canvas,
    segment_canvases,
)
from ovseg_jax.ops.masks import inside
from ovseg_jax.ops.regions import cut_regions, mask_boxes
from ovseg_jax.pictures import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from ovseg_jax.systems import zsseg
from ovseg_jax.systems.zsseg import ZSSeg, ZSSegConfig
from ovseg_jax.text.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("compiling_fast")

QUERIES = tiny.MASKFORMER["predictor"]["queries"]
CONFIG = ZSSegConfig(
    clip=tiny.clip(),
    maskformer=tiny.maskformer(),
    class_hidden=8,
    region_size=32,
)
IMAGE = jax.random.normal(jax.random.key(1), (2, 64, 96, 3))
SIZES = jnp.asarray([(64, 96), (50, 70)])


@pytest.fixture(scope="module")
def system() -> ZSSeg:
    return ZSSeg(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def masks(system):
    """Probabilities float32 [B, Q, H, W] within the pictures, 0 beyond."""
    logits = system.maskformer(IMAGE, all_layers=False).masks[-1]
    shown = inside(SIZES, IMAGE.shape[1:3])[:, None]
    return jnp.where(shown, system._probabilities(logits, IMAGE.shape[1:3]), 0.0)


def choosing(system, **choices) -> ZSSeg:
    """The system with other settings that change no parameter."""
    other = nnx.clone(system)
    other.config = dataclasses.replace(system.config, **choices)
    return other


def leaving(system, masks, count):
    """The system with the threshold that leaves `count` masks of the first picture a region."""
    highest = np.sort(np.asarray(masks[0].max((1, 2))))[::-1]
    threshold = float(np.append(highest, 0.0)[count - 1 : count + 1].mean())
    return choosing(system, mask_threshold=threshold)


def names(count):
    rows = jax.random.normal(jax.random.key(2), (count, tiny.CLIP["embed_dim"]))
    ids = jnp.where(jnp.arange(count) < count - 2, jnp.arange(count), -1)
    rows /= jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return Vocabulary(rows, ids, jnp.arange(count) % 3 > 0)


@pytest.mark.parametrize("count", [1, 4, QUERIES])
def test_regions_are_those_of_looking_at_all_of_them(system, masks, count, monkeypatch):
    monkeypatch.setattr(zsseg, "_REGIONS_AT_ONCE", 3)
    system = leaving(system, masks, count)
    found = system.encode(IMAGE, SIZES)
    assert found.valid[0].sum() == count
    pixels = IMAGE * np.asarray(IMAGENET_STD) + np.asarray(IMAGENET_MEAN)
    pixels = (pixels - np.asarray(CLIP_MEAN)) / np.asarray(CLIP_STD)
    for picture in range(2):
        kept = masks[picture] > system.config.mask_threshold
        boxes, valid = mask_boxes(kept)
        np.testing.assert_array_equal(found.valid[picture], valid)
        crops = cut_regions(pixels[picture], kept, boxes, 32, jnp.zeros(3))
        wanted = jnp.where(valid[:, None], system.clip.encode_image(crops), 1.0)
        np.testing.assert_allclose(found.regions[picture], wanted, atol=2e-5)


def test_without_regions_queries_decide_alone(system):
    blind, queries = choosing(system, mask_threshold=1.0), choosing(system, ensemble=False)
    features, vocabulary = blind.encode(IMAGE[:1], SIZES[:1]), names(5)
    assert not features.valid.any()
    exponents = np.where(vocabulary.seen, CONFIG.ensemble_weight, 1 - CONFIG.ensemble_weight)
    wanted = queries.scores(features, vocabulary)[..., :3] ** exponents[:3]
    np.testing.assert_allclose(blind.scores(features, vocabulary)[..., :3], wanted, rtol=1e-5)


def decode_at_once(system, features, vocabulary, shape, sizes=None):
    masks = system._probabilities(features.masks, shape)
    return jnp.einsum("bqn,bqhw->bhwn", system.scores(features, vocabulary), masks)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(short_side=64),
        Protocol(short_side=64, flip=True),
        Protocol(short_side=64, crop=64, stride=32),
        Protocol(),
    ],
)
def test_maps_are_added_up_after_resizing_and_nothing_changes(system, protocol, monkeypatch):
    model = Model.of(system, np.zeros(3), np.full(3, 60.0))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((80, 110), (76, 107))]
    canvases = [lay_on_canvas(picture, protocol) for picture in pictures]
    late = segment_canvases(model, names(13), canvases, protocol, with_scores=True)
    monkeypatch.setattr(ZSSeg, "mixture", lambda *arguments: None)
    monkeypatch.setattr(ZSSeg, "decode", decode_at_once)
    compiled_segment.clear_cache()
    early = segment_canvases(model, names(13), canvases, protocol, with_scores=True)
    for index, (height, width) in enumerate(c.original_size for c in canvases):
        shown = np.index_exp[index, :height, :width]
        np.testing.assert_allclose(late[1][shown], early[1][shown], atol=1e-5)
        assert np.mean(np.asarray(late[0])[shown] == np.asarray(early[0])[shown]) >= 0.9999
    assert np.ptp(np.asarray(late[1])[0, :70, :90, 0]) > 0  # or equal maps would prove nothing
    compiled_segment.clear_cache()
