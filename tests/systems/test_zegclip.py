"""ZegCLIP against an independent numpy computation, at sizes that no recorded file has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from scipy.special import expit, softmax

from ovseg_jax.errors import UserError
from ovseg_jax.losses.masks import NO_CLASS
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, ViTConfig
from ovseg_jax.ops.resize import interpolation_matrix
from ovseg_jax.params import abstract_model, initialize, merge_model, split_model
from ovseg_jax.systems import create_system
from ovseg_jax.systems.zegclip import ZegCLIP, ZegCLIPConfig
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import split_trainable

TINY = ZegCLIPConfig(
    clip=CLIPConfig(
        8,
        ViTConfig(image_size=24, patch_size=8, width=12, layers=3, heads=2),
        TextConfig(context=5, vocab_size=11, width=8, layers=1, heads=2),
    ),
    prompt_tokens=2,
    prompt_depth=2,
    decoder_layers=2,
    decoder_heads=2,
    decoder_hidden=10,
    class_chunk=3,
)


def build(dtype=jnp.float32, **changes) -> ZegCLIP:
    """A system with random numbers everywhere, norms and biases included."""
    config = dataclasses.replace(TINY, **changes)
    graphdef, shapes, _ = abstract_model(lambda rngs: ZegCLIP(config, rngs=rngs, dtype=dtype))
    rng = np.random.default_rng(0)
    params = {
        path: jnp.asarray(rng.normal(path.endswith("scale"), 0.3, leaf.shape), jnp.float32)
        for path, leaf in shapes.items()
    }
    return merge_model(graphdef, params)


def loss(system, batch, names, rngs=None):
    """One compilation is much faster than one per operation."""
    graphdef, params, _ = split_model(system)
    return jax.jit(lambda p: merge_model(graphdef, p).loss(batch, names, rngs))(params)


def predict(system, image, names):
    graphdef, params, _ = split_model(system)
    return jax.jit(lambda p: merge_model(graphdef, p).predict(image, names))(params)


def vocabulary(classes=5, padding=0, width=8) -> Vocabulary:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(classes, width)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return Vocabulary(
        jnp.asarray(np.pad(embeddings, ((0, padding), (0, 0)))),
        jnp.asarray(np.pad(np.arange(classes), (0, padding), constant_values=-1), jnp.int32),
        jnp.asarray(np.pad(np.arange(classes) % 3 != 1, (0, padding))),
    )


def images(height=24, width=24, batch=2):
    return np.random.default_rng(5).normal(size=(batch, height, width, 3)).astype(np.float32)


def label_maps(height=24, width=24):
    labels = np.random.default_rng(2).integers(0, 5, (2, 3, 3)).repeat(8, 1).repeat(8, 2)
    labels[0, :6] = 255
    return jnp.asarray(labels[:, :height, :width], jnp.int32)


# --- The specification, once more, in numpy ---------------------------------------------------


def _linear(x, layer):
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def _norm(x, norm):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    return x * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


def _heads(x, heads):
    return x.reshape(len(x), x.shape[1], heads, -1).transpose(0, 2, 1, 3)


def _attention(q, memory, layer):
    query, key, value = (
        _heads(_linear(x, part), layer.heads)
        for x, part in ((q, layer.query), (memory, layer.key), (memory, layer.value))
    )
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    y = (softmax(scores, -1) @ value).transpose(0, 2, 1, 3)
    return _linear(y.reshape(q.shape), layer.out), scores.mean(1)


def _resize(maps, size):
    down, across = (interpolation_matrix(n, m) for n, m in zip(maps.shape[1:3], size, strict=True))
    return np.einsum("ph,qw,bhwc->bpqc", down, across, maps)


def reference_masks(system: ZegCLIP, image, text):
    config, vit, prompts = system.config, system.clip.image, system.prompts
    patch = config.clip.image.patch_size
    image = np.asarray(image, np.float64)
    b, h, w = len(image), image.shape[1] // patch, image.shape[2] // patch
    kernel = np.asarray(vit.patch_embed.kernel[...])
    patches = np.stack(
        [
            np.einsum("bpqc,pqcd->bd", image[:, y : y + patch, x : x + patch], kernel)
            for y in range(0, h * patch, patch)
            for x in range(0, w * patch, patch)
        ],
        axis=1,
    )
    table = np.asarray(vit.positions[...], np.float64)
    side = round((len(table) - 1) ** 0.5)
    spatial = _resize(table[1:].reshape(1, side, side, -1), (h, w)).reshape(h * w, -1)
    first = 2 * np.asarray(vit.class_token[...]) + table[0]
    tokens = np.concatenate([np.tile(first, (b, 1, 1)), patches + spatial], axis=1)
    tokens = _norm(tokens, vit.norm_pre)

    def projected(raw):
        return np.tile(_linear(np.asarray(raw), prompts.projection), (b, 1, 1))

    n = h * w
    for i, block in enumerate(vit.blocks):
        if i == 0:
            middle = projected(prompts.embeddings[...])
        elif i <= prompts.depth:
            middle = projected(prompts.deep_embeddings[...][i - 1])
        elif prompts.depth:
            middle = np.zeros((b, 0, tokens.shape[-1]))
        else:
            middle = tokens[:, 1:-n]
        tokens = np.concatenate([tokens[:, :1], middle, tokens[:, -n:]], axis=1)
        normed = _norm(tokens, block.norm1)
        tokens = tokens + _attention(normed, normed, block.attention)[0]
        hidden = _linear(_norm(tokens, block.norm2), block.mlp.fc1)
        tokens = tokens + _linear(hidden * expit(1.702 * hidden), block.mlp.fc2)
    if prompts.depth:
        tokens = _norm(tokens, prompts.norm)
    features = _norm(tokens, vit.norm_post) @ np.asarray(vit.projection[...])
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    cls, memory = features[:, 0], features[:, -n:]

    scale = config.input_scale
    cls, memory, text = cls * scale, memory * scale, np.asarray(text) * scale
    descriptor = np.broadcast_to(text, (b, *text.shape))
    if config.relationship_descriptor:
        descriptor = np.concatenate([cls[:, None] * text, descriptor], axis=-1)
    queries = _linear(descriptor, system.head.query_projection)
    for layer in system.head.layers:
        attended, scores = _attention(queries, memory, layer.attention)
        queries = _norm(queries + attended, layer.norm2)
        hidden = np.maximum(_linear(queries, layer.mlp.fc1), 0)
        queries = _norm(queries + _linear(hidden, layer.mlp.fc2), layer.norm3)
    return scores.transpose(0, 2, 1).reshape(b, h, w, -1)


# --- Comparisons ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (24, 24)),
        ({"prompt_depth": 0}, (24, 24)),
        ({"prompt_depth": 1, "decoder_layers": 1}, (16, 40)),
        ({"prompt_tokens": 5, "decoder_layers": 3, "input_scale": 8**0.5}, (40, 24)),
        ({"relationship_descriptor": False}, (24, 16)),
    ],
)
def test_masks(changes, size):
    system = build(**changes)
    image, text = images(*size), vocabulary(4).embeddings
    expected = reference_masks(system, image, text)
    actual, _ = jax.jit(lambda i: system.masks(i, text))(image)
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


def test_predict_calibrates_seen_classes_after_the_sigmoid():
    names = vocabulary(4)
    system = build()
    image = images(16, 32)
    masks = reference_masks(system, image, names.embeddings)
    scores = expit(_resize(masks, (24, 24))) - 0.1 * np.asarray(names.seen)
    expected = _resize(scores, (16, 32))
    np.testing.assert_allclose(predict(system, image, names), expected, atol=1e-5)
    other = predict(build(setting="transductive"), image, names)
    seen = 0.1 * np.asarray(names.seen)
    np.testing.assert_allclose(other, expected + seen, atol=1e-5)


def test_loss_does_not_depend_on_chunks_and_padding():
    batch = {"image": images(), "label": label_maps()}
    expected, scalars = loss(build(), batch, vocabulary())
    np.testing.assert_allclose(scalars["loss_mask"] + scalars["loss_dice"], expected, rtol=1e-6)
    for system, names in ((build(class_chunk=64), vocabulary()), (build(), vocabulary(padding=3))):
        np.testing.assert_allclose(loss(system, batch, names)[0], expected, rtol=1e-5)


def test_pixel_accuracy_counts_labelled_pixels_only():
    system, names = build(), vocabulary()
    labels = label_maps()
    masks = reference_masks(system, images(), names.embeddings)
    best = _resize(masks, (24, 24)).argmax(-1)
    valid = np.asarray(labels) != 255
    _, scalars = loss(system, {"image": images(), "label": labels}, names)
    expected = (best == np.asarray(labels))[valid].mean()
    np.testing.assert_allclose(scalars["pixel_accuracy"], expected, atol=2e-3)


def test_inductive_labels_keep_only_what_the_vocabulary_holds():
    everything = vocabulary()
    rows = np.flatnonzero(everything.seen)
    seen = jax.tree.map(lambda x: x[rows], everything)
    labels = np.asarray(label_maps())
    used = build().training_labels(jnp.asarray(labels), jnp.zeros((2, 3, 3, len(rows))), seen)
    np.testing.assert_array_equal(used, np.where(np.isin(labels, rows), labels, NO_CLASS))


def test_transductive_labels_are_the_best_unseen_class():
    names, labels = vocabulary(), np.array(label_maps())
    labels[1, 20:] = 77  # a class without a name is unseen as well
    masks = np.random.default_rng(3).normal(size=(2, 3, 3, 5)).astype(np.float32)
    used = build(setting="transductive").training_labels(jnp.asarray(labels), masks, names)
    seen = np.asarray(names.seen)
    pseudo = np.where(seen, -np.inf, _resize(masks, (24, 24))).argmax(-1)
    keep = np.isin(labels, np.flatnonzero(seen))
    expected = np.where(labels == 255, NO_CLASS, np.where(keep, labels, pseudo))
    assert (np.asarray(used) == expected).mean() > 0.999


@pytest.mark.parametrize("changes", [{}, {"prompt_depth": 0}, {"decoder_layers": 1}])
def test_what_trains_is_what_has_a_gradient(changes):
    """Quirk 3: what no gradient reaches stays in the model and is not decayed."""
    system = build(**changes)
    graphdef, params, _ = split_model(system)
    batch = {"image": images(), "label": label_maps()}
    grads = jax.jit(
        jax.grad(lambda p: merge_model(graphdef, p).loss(batch, vocabulary(), None)[0])
    )(params)
    moved = {
        path
        for path, grad in grads.items()
        if not path.startswith("clip/") and float(jnp.abs(grad).max()) > 0
    }
    trained, frozen = split_trainable(params, system.param_groups())
    assert set(trained) == moved
    assert all(path.startswith("clip/") for path in frozen if path in moved)


def test_decoder_layers_start_identical():
    params, _ = initialize(lambda rngs: ZegCLIP(TINY, rngs=rngs), 0)
    for path, value in params.items():
        if path.startswith("head/layers/0/"):
            np.testing.assert_array_equal(value, params[path.replace("/0/", "/1/", 1)])


def test_dropout_follows_its_key():
    graphdef, params, _ = split_model(build(dropout=0.5))
    batch = {"image": images(), "label": label_maps()}

    @jax.jit
    def loss(key):
        return merge_model(graphdef, params).loss(batch, vocabulary(), nnx.Rngs(key))[0]

    first, again, other = (float(loss(jax.random.key(n))) for n in (0, 0, 1))
    assert first == again != other


def test_bfloat16_predictions_stay_near():
    image, names = images(), vocabulary()
    actual = predict(build(dtype=jnp.bfloat16), image, names)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, predict(build(), image, names), atol=0.1)


def config_dict(**changes) -> ConfigDict:
    clip = dataclasses.asdict(TINY.clip)
    return ConfigDict({"dtype": "float32", "system": {"name": "zegclip", "clip": clip, **changes}})


def test_create_reads_the_config():
    system = nnx.eval_shape(
        lambda: create_system(config_dict(prompt_tokens=3, prompt_depth=1), nnx.Rngs(0))
    )
    assert system.config.clip == TINY.clip
    assert system.prompts.embeddings.shape == (3, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promt_tokens": 3}, "promt_tokens.*prompt_tokens"),
        ({"setting": "zero-shot"}, "setting 'zero-shot'.*inductive"),
        ({"name": "zegclp"}, "did you mean 'zegclip'"),
    ],
)
def test_mistakes_in_the_config(changes, message):
    with pytest.raises(UserError, match=message):
        create_system(config_dict(**changes), nnx.Rngs(0))
