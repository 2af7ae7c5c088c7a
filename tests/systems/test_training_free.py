"""The training-free system: windows of any size against the references' loop, and its config."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax import models
from ovseg_jax.errors import UserError
from ovseg_jax.evaluate import evaluate_run
from ovseg_jax.inference import (
    Model,
    Protocol,
    compiled_segment,
    lay_on_canvas,
    resized_size,
    segment_canvases,
)
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, ViTConfig
from ovseg_jax.networks.vit import DinoConfig
from ovseg_jax.ops.images import normalize
from ovseg_jax.ops.resize import resize
from ovseg_jax.params import abstract_model, merge_model
from ovseg_jax.predict import load
from ovseg_jax.systems import create_system
from ovseg_jax.systems.training_free import TrainingFree, TrainingFreeConfig, pad_around
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.train import train

CLIP = CLIPConfig(
    8,
    ViTConfig(image_size=16, patch_size=4, width=12, layers=2, heads=3),
    TextConfig(context=5, vocab_size=11, width=8, layers=1, heads=2),
)
PROXY = DinoConfig(16, 2, width=8, layers=1, heads=2)
pytestmark = pytest.mark.usefixtures("compiling_fast")

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 65.0, 70.0)


@functools.cache
def build(dtype=jnp.float32, **changes) -> TrainingFree:
    """A system with random numbers everywhere, norms and biases included."""
    config = TrainingFreeConfig(**{"clip": CLIP, "logit_scale": 20.0, **changes})
    graphdef, shapes, _ = abstract_model(lambda rngs: TrainingFree(config, rngs=rngs, dtype=dtype))
    rng = np.random.default_rng(0)
    params = {
        path: jnp.asarray(rng.normal(path.endswith("scale"), 0.3, leaf.shape), jnp.float32)
        for path, leaf in shapes.items()
    }
    return merge_model(graphdef, params)


def vocabulary() -> Vocabulary:
    embeddings = np.random.default_rng(1).normal(size=(4, 8))
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return Vocabulary(jnp.float32(embeddings), jnp.array([0, 0, 1, 2]), jnp.ones(4, bool))


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def reference(system, image, crop, stride, original):
    """The references' loop over the windows of one picture, which may be smaller than they."""
    names = vocabulary()

    @jax.jit
    def scores(window):
        multiple = system.config.window_multiple
        padded = pad_around(window, multiple)
        y, x = (-n % multiple // 2 for n in window.shape[1:3])
        found = resize(system.logits(system.encode(padded), names), padded.shape[1:3])
        return found[:, y : y + window.shape[1], x : x + window.shape[2]]

    (height, width), crop = image.shape[:2], crop or max(image.shape)
    sums, counts = np.zeros((height, width, 4)), np.zeros((height, width, 1))
    for i in range(max(height - crop + stride - 1, 0) // stride + 1):
        for j in range(max(width - crop + stride - 1, 0) // stride + 1):
            y2, x2 = min(i * stride + crop, height), min(j * stride + crop, width)
            y, x = max(y2 - crop, 0), max(x2 - crop, 0)
            sums[y:y2, x:x2] += np.asarray(scores(image[None, y:y2, x:x2]))[0]
            counts[y:y2, x:x2] += 1
    return np.asarray(resize(jnp.float32(sums / counts), original))


CUT, WHOLE = Protocol(30, 14, 9, patch=4), Protocol(26, patch=4)
PADDED = Protocol(30, 14, 9, patch=1)


@pytest.mark.parametrize(
    ("protocol", "original", "changes"),
    [
        (CUT, (25, 33), {"method": "sclip"}),
        (dataclasses.replace(CUT, long_side=40), (15, 61), {"method": "sclip"}),
        (WHOLE, (40, 55), {"method": "naclip", "options": (("sigma", 2.0),)}),
        (PADDED, (25, 33), {"method": "clearclip", "window_multiple": 4}),
        (
            dataclasses.replace(PADDED, long_side=40),
            (60, 14),
            {"method": "proxyclip", "proxy": PROXY, "window_multiple": 8},
        ),
    ],
)
def test_windows_equal_the_references(protocol, original, changes):
    system, image = build(**changes), picture(*original)
    canvas = lay_on_canvas(image, protocol)
    assert canvas.size == resized_size(original, protocol.short_side, protocol.long_side)
    model = Model.of(system, MEAN, STD)
    labels, scores = segment_canvases(model, vocabulary(), [canvas], protocol, with_scores=True)
    resized = np.asarray(normalize(canvas.pixels[: canvas.size[0], : canvas.size[1]], MEAN, STD))
    wanted = reference(system, resized, protocol.crop, protocol.stride or 1, original)
    height, width = original
    np.testing.assert_allclose(scores[0, :height, :width], wanted, atol=2e-4)
    rows = np.asarray(vocabulary().class_ids)[wanted.argmax(-1)]
    assert (np.asarray(labels[0, :height, :width]) == rows).mean() > 0.999


def test_sizes_of_as_many_patches_share_a_program():
    model = Model.of(build(method="clip"), MEAN, STD)
    protocol = Protocol(short_side=24, patch=4)
    compiled = None
    for width in (51, 50, 49):  # 26 to 27 pixels after resizing: six patches
        canvas = lay_on_canvas(picture(46, width), protocol)
        assert canvas.pixels.shape == (27, 27, 3)
        segment_canvases(model, vocabulary(), [canvas], protocol)
        assert compiled_segment._cache_size() == (compiled or compiled_segment._cache_size())
        compiled = compiled_segment._cache_size()


def test_maskclip_pads_whole_pictures_and_spreads_the_padding_too():
    system = build(method="maskclip_original", logit_scale=1.0)
    protocol = Protocol(short_side=14, patch=4, pad_patches=True)
    canvas = lay_on_canvas(picture(28, 44), protocol)
    assert (canvas.size, canvas.pixels.shape) == ((14, 22), (16, 24, 3))
    model = Model.of(system, MEAN, STD)
    _, scores = segment_canvases(model, vocabulary(), [canvas], protocol, with_scores=True)
    resized = normalize(canvas.pixels[:14, :22], MEAN, STD)
    padded = jnp.pad(resized, ((0, 2), (0, 2), (0, 0)))[None]
    patches = jax.jit(lambda image: system.logits(system.encode(image), vocabulary()))(
        padded
    )  # [1, 4, 6, N]
    wanted = resize(resize(patches, (14, 22)), (28, 44))
    np.testing.assert_allclose(scores[:, :28, :44], wanted, atol=1e-4)


def test_bfloat16_stays_near():
    image = jnp.asarray(np.random.default_rng(5).normal(size=(1, 16, 24, 3)), jnp.float32)

    def predict(dtype):
        system = build(dtype, method="naclip")
        return jax.jit(lambda image: system.predict(image, vocabulary()))(image)

    coarse = predict(jnp.bfloat16)
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, predict(jnp.float32), atol=1.0)  # of scores up to 20


def test_nothing_trains():
    system = build()
    assert system.param_groups() == ()
    with pytest.raises(UserError, match="nothing to train; evaluate it"):
        system.loss({}, None, None)


# --- Config -----------------------------------------------------------------------------------


def config_dict(**changes) -> ConfigDict:
    system = {"name": "training_free", "clip": dataclasses.asdict(CLIP), **changes}
    return ConfigDict({"dtype": "float32", "system": system})


def test_create_reads_the_config():
    proxy = dataclasses.asdict(PROXY)
    config = config_dict(method="proxyclip", proxy=proxy, options={"beta": 1.3}, logit_scale=30.0)
    system = nnx.eval_shape(lambda: create_system(config, nnx.Rngs(0)))
    assert system.config == TrainingFreeConfig(CLIP, PROXY, "proxyclip", (("beta", 1.3),), 30.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methode": "clip"}, "no field config.system.methode.*method"),
        ({"method": "nacilp"}, "'nacilp'.*did you mean 'naclip'"),
        ({"method": "naclip", "options": {"sgima": 3}}, "'sgima'.*blocks, residual, sigma"),
        ({"method": "proxyclip"}, r"'proxyclip' needs config\.system\.proxy"),
        ({"proxy": dataclasses.asdict(PROXY)}, "'clip' has no use for"),
        (
            {"clip": {**dataclasses.asdict(CLIP), "image": {"layers": (1, 1, 1, 1), "width": 8}}},
            "is a ResNet; choose a ViT",
        ),
    ],
)
def test_mistakes_in_the_config(changes, message):
    with pytest.raises(UserError, match=message):
        create_system(config_dict(**changes), nnx.Rngs(0))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run of the embedded world: the recipe, its folder and the result."""
    config = tiny.config(data__eval__source__size=4).copy_and_resolve_references().unlock()
    system = {"clip": config.system.clip, "method": "naclip", "logit_scale": 20.0}
    config.system = ConfigDict({"name": "training_free", **system})
    config.eval.update(patch=16, pamr_steps=2, pamr_dilations=(2,), threshold=0.02, area=0.01)
    for section in ("train", "optimizer", "schedule"):
        del config[section]
    workdir = tmp_path_factory.mktemp("runs") / "free"
    assert train(config, workdir) == {}
    return config, workdir, evaluate_run(config, workdir)


def test_a_run_needs_no_training(evaluated, capsys):
    config, workdir, result = evaluated
    assert result["images"] == 4 and result["protocol"]["checkpoint"] is None
    recorded = json.loads((workdir / "result.json").read_text())["protocol"]
    assert (recorded["pamr_steps"], recorded["threshold"], recorded["patch"]) == (2, 0.02, 16)
    again = models.load_run(config, workdir)
    assert "clip/image/positions" in again.params


def test_a_users_own_words_have_no_background(evaluated):
    _, workdir, _ = evaluated
    segmenter = load(workdir)
    assert (segmenter.protocol.threshold, segmenter.protocol.area) == (0.0, 0.0)
    assert segmenter.protocol.pamr_dilations == (2,)
    labels = segmenter.segment(picture(50, 66), "star; ring, disk; grass").labels
    assert labels.shape == (50, 66) and labels.max() < 3


def test_weights_come_from_several_folders(evaluated, tmp_path):
    config, workdir, _ = evaluated
    config = config.copy_and_resolve_references()
    config.system.method = "proxyclip"
    config.system.proxy = ConfigDict(dataclasses.asdict(PROXY))
    weights = models.load_folder_weights(workdir)
    proxy = {f"proxy/{path}": value for path, value in proxy_weights().items()}
    models.save_weights(tmp_path / "model.safetensors", proxy)
    config.pretrained = f"{workdir},{tmp_path}"
    _, params, _ = models.initialize_model(config)
    for path, value in (weights | proxy).items():
        np.testing.assert_array_equal(params[path], value, err_msg=path)


def proxy_weights():
    _, shapes, _ = abstract_model(lambda rngs: PROXY.build(rngs=rngs))
    return {path: np.full(leaf.shape, 0.5, np.float32) for path, leaf in shapes.items()}
