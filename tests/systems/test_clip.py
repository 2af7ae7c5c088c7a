"""CLIP's losses, and the two steps of prediction of every system that has names and patches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ovseg_jax import inference
from ovseg_jax.errors import UserError
from ovseg_jax.inference import Model, Protocol, lay_on_canvas, segment_canvases
from ovseg_jax.losses.contrastive import contrastive_loss, entity_contrastive_loss
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, ViTConfig, normalize
from ovseg_jax.networks.clip_resnet import ResNetConfig
from ovseg_jax.ops.resize import resize
from ovseg_jax.systems.clip import ClipSystem, ClipSystemConfig
from ovseg_jax.systems.training_free import TrainingFree, TrainingFreeConfig
from ovseg_jax.systems.zegclip import ZegCLIP, ZegCLIPConfig
from ovseg_jax.text.vocabulary import Vocabulary

CLIP = CLIPConfig(
    8,
    ViTConfig(image_size=24, patch_size=8, width=12, layers=2, heads=2, pool="mean"),
    TextConfig(context=5, vocab_size=11, width=8, layers=1, heads=2),
)
SYSTEMS = {
    "clip": lambda rngs: ClipSystem(ClipSystemConfig(CLIP), rngs=rngs),
    "training_free": lambda rngs: TrainingFree(
        TrainingFreeConfig(clip=CLIP, method="naclip"), rngs=rngs
    ),
    "zegclip": lambda rngs: ZegCLIP(
        ZegCLIPConfig(
            clip=CLIP, prompt_tokens=2, prompt_depth=1, decoder_layers=1, decoder_heads=2
        ),
        rngs=rngs,
    ),
}


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(3, 24, 24, 3)), jnp.float32),
        "text": jnp.asarray([[1, 4, 10, 0, 0], [1, 5, 6, 10, 0], [1, 6, 10, 0, 0]]),
        "entity_text": jnp.asarray(
            [[[1, 4, 10], [1, 6, 10]], [[1, 5, 10], [0, 0, 0]], [[1, 6, 10], [0, 0, 0]]]
        ),
    }


def names(rows=40):
    rng = np.random.default_rng(1)
    embeddings = normalize(jnp.asarray(rng.normal(size=(rows, 8)), jnp.float32))
    ids = jnp.asarray(np.where(np.arange(rows) < rows - 3, np.arange(rows), -1), jnp.int32)
    return Vocabulary(embeddings, ids, jnp.asarray(np.arange(rows) % 3 > 0))


def test_loss_adds_that_of_the_names():
    system = SYSTEMS["clip"](nnx.Rngs(0))
    given = batch()
    loss, scalars = system.loss(given, None, None)
    image = normalize(system.clip.encode_image(given["image"]))
    text = normalize(system.clip.encode_text(given["text"]))
    patches = normalize(system.clip.image.dense(given["image"])).reshape(3, 9, -1)
    entities = normalize(system.clip.encode_text(given["entity_text"].reshape(6, 3)))
    scale = scalars["logit_scale"]
    captions = contrastive_loss(image, text, scale)
    of_names = entity_contrastive_loss(patches, entities, given["entity_text"], scale)
    np.testing.assert_allclose(scalars["entity_loss"], of_names, rtol=1e-4)
    np.testing.assert_allclose(loss, captions + of_names, rtol=1e-4)
    del given["entity_text"]
    np.testing.assert_allclose(system.loss(given, None, None)[0], captions, rtol=1e-4)


def test_a_resnet_has_no_patches_to_name():
    resnet = ResNetConfig(image_size=32, layers=(1, 1, 1, 1), width=16)
    config = CLIPConfig(8, resnet, CLIP.text)
    system = ClipSystem(ClipSystemConfig(config), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="set max_entities"):
        system.loss(batch(), None, None)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_dense_features_are_of_unit_length(kind):
    system = SYSTEMS[kind](nnx.Rngs(0))
    image = batch()["image"]
    dense = system.dense_features(system.encode(image), (24, 24))
    assert dense.shape == (3, 3, 3, 8) and system.patch_size == 8
    np.testing.assert_allclose(jnp.linalg.norm(dense, axis=-1), 1, rtol=1e-5)
    if kind != "zegclip":  # whose decoder attends to them instead
        scores = system.predict(image, names())
        cosines = resize(dense @ names().embeddings.T, (24, 24))
        ratio = np.asarray(scores / cosines)
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-2)


@pytest.mark.parametrize("threshold", [0.0, 0.49])
@pytest.mark.parametrize("kind", SYSTEMS)
def test_names_in_parts_give_the_labels_of_all_at_once(monkeypatch, kind, threshold):
    if threshold and kind != "zegclip":
        threshold = 0.03  # of a softmax over 37 names
    system = SYSTEMS[kind](nnx.Rngs(0))
    assert system.independent_names
    assert system.scores_are_probabilities == (kind == "zegclip")
    model = Model.of(system, (120.0,) * 3, (60.0,) * 3)
    protocol = Protocol(short_side=30, crop=24, stride=16, threshold=threshold)
    picture = np.random.default_rng(2).integers(0, 256, (33, 40, 3), np.uint8)
    segment = functools.partial(
        segment_canvases, model, names(), [lay_on_canvas(picture, protocol)], protocol
    )
    whole = np.asarray(segment()[0])[0, :33, :40]
    parts = []
    decide = inference.decide_in_chunks

    def counted(scores, vocabulary, chunks, rules):
        parts.append(chunks)
        return decide(scores, vocabulary, chunks, rules)

    monkeypatch.setattr(inference, "decide_in_chunks", counted)
    monkeypatch.setattr(inference, "_SCORES_AT_ONCE", 40 * 40 * 13)
    jax.clear_caches()
    found = np.asarray(segment()[0])[0, :33, :40]
    jax.clear_caches()
    assert len(parts) == 1 and 3 <= parts[0] <= 5
    assert np.mean(found == whole) > 0.99 and len(np.unique(whole)) > 1
