"""zsseg: targets, padding, the ensemble and what trains."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.params import merge_model, split_model
from ovseg_jax.systems.zsseg import ZSSeg, ZSSegConfig, maskformer_config, targets
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import split_trainable

pytestmark = pytest.mark.usefixtures("compiling_fast")

CLIP = tiny.clip()
MASKFORMER = tiny.maskformer()


def build(**choices) -> ZSSeg:
    config = ZSSegConfig(CLIP, MASKFORMER, class_hidden=8, region_size=32, **choices)
    return ZSSeg(config, rngs=nnx.Rngs(0))


def names(system, count=3, prompts=1, seen=(True, True, False), padding=0) -> Vocabulary:
    tokens = np.zeros((count, prompts, 8), np.int32)
    tokens[..., 0], tokens[..., 2] = 38, 39
    tokens[..., 1] = np.arange(count)[:, None] + 2 + np.arange(prompts)
    embeddings = system.encode_vocabulary(jnp.asarray(tokens))
    ids = np.pad(10 * np.arange(count), (0, padding), constant_values=-1)
    return Vocabulary(
        jnp.pad(embeddings, ((0, padding), (0, 0))),
        jnp.asarray(ids),
        jnp.asarray(np.pad(np.asarray(seen), (0, padding))),
        jnp.asarray(tokens),
    )


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def picture(height=64, width=64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(1, height, width, 3)), jnp.float32)


def batch():
    label = np.full((1, 64, 64), 255, np.int32)
    label[:, :20], label[:, 20:40], label[:, 40:50] = 10, 77, 20
    classes = jnp.array([[10, 20, 77, -1]])
    return {"image": picture(), "label": jnp.asarray(label), "classes": classes}


@functools.partial(jax.jit, static_argnums=0)
def _loss(graphdef, params, stats, given, vocabulary):
    return merge_model(graphdef, params, stats).loss(given, vocabulary, None)


def loss(system, given, vocabulary):
    return _loss(*split_model(system), given, vocabulary)


def test_classes_without_a_row_are_no_targets():
    vocabulary = Vocabulary(jnp.zeros((4, 1)), jnp.array([30, 10, 20, -1]), jnp.ones(4, bool))
    classes, rows = targets(jnp.array([[5, 10, 20, -1], [30, 40, -1, -1]]), vocabulary)
    assert classes.tolist() == [[10, 20, -1, -1], [30, -1, -1, -1]]
    assert rows.tolist() == [[1, 2, -1, -1], [0, -1, -1, -1]]


def test_unseen_classes_teach_as_if_they_were_not_labelled():
    system = build()
    vocabulary, given = names(system), batch()
    value, scalars = loss(system, given, vocabulary)
    assert set(scalars) == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0")}
    hidden = jnp.where(given["label"] == 77, 255, given["label"])
    given = {**given, "label": hidden, "classes": jnp.array([[10, 20, -1, -1]])}
    np.testing.assert_allclose(loss(system, given, vocabulary)[0], value, rtol=1e-6)
    given["label"] = jnp.where(hidden == 10, 255, hidden)
    assert abs(loss(system, given, vocabulary)[0] - value) > 1e-3


def test_the_last_layer_may_have_the_only_loss():
    (_, every), (total, last) = (
        loss(system, batch(), names(system))
        for system in (build(label_weight=2.0, deep_supervision=deep) for deep in (True, False))
    )
    assert last.keys() == {"loss_ce", "loss_mask", "loss_dice"} < every.keys()
    for name, value in last.items():
        np.testing.assert_allclose(value, every[name], rtol=1e-5)
    weighted = 2.0 * last["loss_ce"] + 20.0 * last["loss_mask"] + last["loss_dice"]
    np.testing.assert_allclose(total, weighted, rtol=1e-5)


def test_padded_names_change_nothing():
    system = build()
    plain, padded = names(system), names(system, padding=2)
    losses = [loss(system, batch(), vocabulary)[0] for vocabulary in (plain, padded)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    features = system.encode(picture())
    scores = [system.scores(features, vocabulary) for vocabulary in (plain, padded)]
    np.testing.assert_allclose(scores[1][..., :3], scores[0], atol=1e-6)
    assert not np.asarray(scores[1][..., 3:]).any()


@pytest.mark.parametrize("expand", [1.0, 1.5])
def test_regions_end_with_the_picture(expand):
    system = build(mask_threshold=0.4, mask_expand=expand)
    image = picture(48, 33)
    canvas = jnp.pad(image, ((0, 0), (0, 16), (0, 31), (0, 0)))
    features = system.encode(canvas, jnp.array([[48, 33]]))
    # Beyond the picture masks say nothing: other pixels there would change no region.
    logits = features.masks
    noise = jnp.where(canvas == 0, 3.0, canvas)
    here, valid = system._look(canvas[0], logits[0], jnp.array([48, 33]))
    there, _ = system._look(noise[0], logits[0], jnp.array([48, 33]))
    assert valid.any()
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_several_pictures_are_looked_at_as_one():
    system = build(mask_threshold=0.4)
    images = jnp.concatenate([picture(seed=seed) for seed in (1, 2)])
    both = system.encode(images)
    for index in (0, 1):
        alone = system.encode(images[index : index + 1])
        for one, other in zip(both, alone, strict=True):
            np.testing.assert_allclose(one[index], other[0], atol=1e-4)


def test_names_of_another_vocabulary_count_as_unseen():
    system = build(ensemble_weight=0.8, mask_threshold=0.4)
    features = system.encode(picture())
    flagged, plain = names(system), names(system, seen=(True, True, True))
    none_seen = dataclasses.replace(plain, seen=jnp.zeros(3, bool))
    np.testing.assert_array_equal(
        system.scores(features, plain), system.scores(features, none_seen)
    )
    assert not np.allclose(system.scores(features, plain), system.scores(features, flagged))


def test_queries_alone_and_regions_alone():
    system = build(mask_threshold=0.4, ensemble=False)
    vocabulary = names(system)
    features = system.encode(picture())
    expected = nnx.softmax(100 * unit(features.queries) @ unit(system._names(vocabulary)[0]).T)
    scores = system.scores(features, vocabulary)
    np.testing.assert_allclose(scores, expected[..., :3], atol=1e-5)  # the rest is no object
    system = build(mask_threshold=0.4, ensemble_weight=0.0)
    features = system.encode(picture())
    scores = np.asarray(system.scores(features, names(system)))
    valid = np.asarray(features.valid)
    np.testing.assert_allclose(scores.sum(-1), valid, atol=1e-6)


def test_regions_with_prompts_of_their_own():
    system = build(prefix=2, query_prompts=1, full_stop=37)
    vocabulary = names(system, prompts=2)
    assert vocabulary.embeddings.shape == (3, 16)
    queries, regions = system._names(vocabulary)
    assert queries.shape == regions.shape == (4, 8)
    assert not np.allclose(queries, regions)
    fixed = build().encode_vocabulary(vocabulary.tokens[:, :1])
    np.testing.assert_allclose(queries[:3], fixed, atol=1e-6)


def test_what_trains():
    def trained(**choices):
        _, params, _ = split_model(build(**choices))
        trainable, _ = split_trainable(params, build(**choices).param_groups())
        return {path.partition("/")[0] for path in trainable}

    assert trained() == {"maskformer", "no_object"}
    assert trained(prefix=2, full_stop=37) == {"maskformer", "no_object"}
    assert trained(prefix=2, full_stop=37, learn_prompt=True) == {
        "maskformer",
        "no_object",
        "prompt",
    }


def test_a_prompt_learns_within_the_segmenter():
    system = build(prefix=2, full_stop=37, learn_prompt=True)
    assert system.text_trains
    graphdef, params, stats = split_model(system)
    prefix = {"prompt/prefix": params["prompt/prefix"]}

    def value(prefix):
        return _loss(graphdef, {**params, **prefix}, stats, batch(), names(system))[0]

    assert np.abs(jax.grad(value)(prefix)["prompt/prefix"]).max() > 0


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"mask_fill": "white"}, "unknown config.system.mask_fill 'white'"),
        ({"learn_prompt": True}, "can learn a prompt only where queries read one"),
        ({"learn_prompt": True, "prefix": 2, "query_prompts": 1}, "can learn a prompt only"),
    ],
)
def test_mistakes(choices, message):
    with pytest.raises(UserError, match=message):
        ZSSegConfig(CLIP, **choices)


@pytest.mark.parametrize(
    ("part", "field", "message"),
    [
        ("backbone", {"stem": "deep"}, "maskformer.backbone does not fit .*unknown stem 'deep'"),
        ("predictor", {"querys": 3}, "maskformer.predictor does not fit .*'querys'"),
    ],
)
def test_mistakes_in_parts_are_named(part, field, message):
    sizes = tiny.MASKFORMER | {part: tiny.MASKFORMER[part] | field}
    with pytest.raises(UserError, match=message):
        maskformer_config(ConfigDict({"system": {"maskformer": sizes}}))
