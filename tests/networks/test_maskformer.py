import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ovseg_jax.networks.detr import Decoder, LayerConfig, Perceptron
from ovseg_jax.networks.layers import Linear
from ovseg_jax.networks.maskformer import (
    MaskFormer,
    MaskFormerConfig,
    PixelEmbedder,
    Predictor,
    PredictorConfig,
)
from ovseg_jax.networks.pixel_decoder import PixelDecoderConfig
from ovseg_jax.networks.resnet import RESNET_SIZES, ResNetConfig
from ovseg_jax.params import abstract_model, initialize, merge_model

LAYER = LayerConfig(8, 2, 6)
TINY = MaskFormerConfig(
    ResNetConfig((1, 1, 1, 1), stem_width=4, width=2, out_width=8),
    PixelDecoderConfig(32, 5),
    PredictorConfig(LAYER, 3, 0, 2),
)
IMAGE = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype(np.float32)


def linear(classes):
    return lambda dim, rngs: Linear(dim, classes, rngs=rngs)


def creator(config=TINY, head=None, **options):
    dim = config.predictor.layer.dim
    head = head or linear(4)
    return lambda rngs: MaskFormer(config, head(dim, rngs), rngs=rngs, **options)


def build(create):
    """A network with random numbers everywhere."""
    graphdef, params, stats = abstract_model(create)
    rng = np.random.default_rng(0)
    weights = {
        path: jnp.asarray(rng.uniform(0.1, 0.4, leaf.shape), jnp.float32)
        * (1 if path in stats else rng.choice([-1, 1], leaf.shape))
        for path, leaf in {**params, **stats}.items()
    }
    return merge_model(graphdef, weights)


def output_shapes(create, image=IMAGE):
    graphdef, params, stats = abstract_model(create)
    weights = {**params, **stats}
    return jax.eval_shape(lambda w, image: merge_model(graphdef, w)(image), weights, image)


@pytest.fixture(scope="module")
def model():
    return build(creator())


def test_every_layer_speaks_and_the_last_one_alone_says_the_same(model):
    every = jax.jit(lambda image: model(image))(IMAGE)
    assert every.classes.shape == (2, 2, 3, 4) and every.masks.shape == (2, 2, 3, 16, 24)
    last = jax.jit(lambda image: model(image, all_layers=False))(IMAGE)
    for whole, part in zip(every, last, strict=True):
        np.testing.assert_allclose(part, whole[-1:], atol=1e-5)


def test_masks_are_products_of_queries_and_pixels(model):
    states = jax.random.normal(jax.random.key(0), (1, 2, 3, 8))
    pixels = jax.random.normal(jax.random.key(1), (2, 4, 6, 5))
    masks = model.predictor.read(states, pixels).masks
    query = np.asarray(model.predictor.mask_head(states))[0, 1, 2]
    np.testing.assert_allclose(masks[0, 1, 2, 3, 4], query @ pixels[1, 3, 4], atol=1e-5)


def test_the_class_head_is_given_to_it():
    create = creator(head=lambda dim, rngs: Perceptron(dim, 16, 11, 2, rngs=rngs))
    outputs = output_shapes(create)
    assert outputs.classes.shape == (2, 2, 3, 11)


def test_a_predictor_that_reads_the_transformer_of_the_pixel_decoder():
    config = dataclasses.replace(
        TINY,
        pixel_decoder=PixelDecoderConfig(32, 5, encoder_layers=1),
        predictor=dataclasses.replace(TINY.predictor, reads_encoded=True),
    )
    _, params, _ = abstract_model(creator(config))
    assert params["predictor/projection/kernel"].shape == (1, 1, 32, 8)
    assert output_shapes(creator(config)).classes.shape == (2, 2, 3, 4)
    with pytest.raises(ValueError, match="no transformer that could be attended to"):
        dataclasses.replace(config, pixel_decoder=TINY.pixel_decoder)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_memory_without_encoder_layers_is_normed_with_pre_norm_alone(pre_norm):
    layer = dataclasses.replace(LAYER, pre_norm=pre_norm)
    predictor = build(
        lambda rngs: Predictor(
            8, 5, PredictorConfig(layer, 3, 0, 1), Linear(8, 4, rngs=rngs), rngs=rngs
        )
    )
    x = IMAGE[:, :2, :3].repeat(3, axis=-1)[..., :8]
    _, trace = predictor.states(x)
    expected = predictor.encoder.norm(x) if pre_norm else x
    np.testing.assert_allclose(trace["memory"], expected, atol=1e-6)
    assert pre_norm == (np.abs(trace["memory"] - x).max() > 0.1)


def test_half_precision_inside_and_single_precision_masks():
    outputs = output_shapes(creator(dtype=jnp.bfloat16))
    assert (outputs.classes.dtype, outputs.masks.dtype) == (jnp.bfloat16, jnp.float32)


def test_dropout_follows_its_key(model):
    x, pixels = np.ones((1, 2, 3, 64), np.float32), np.ones((1, 4, 6, 5), np.float32)

    @jax.jit
    def classes(key):
        return model.predictor(x, pixels, rngs=nnx.Rngs(dropout=key)).classes

    first, again, other = (classes(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    without = jax.jit(lambda: model.predictor(x, pixels).classes)()
    assert np.abs(first - without).max() > 1e-3


@pytest.mark.parametrize("pre_norm", [False, True])
def test_queries_do_not_depend_on_the_order_of_the_memory(pre_norm):
    decoder = Decoder(dataclasses.replace(LAYER, pre_norm=pre_norm), 2, rngs=nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(0), 3)
    queries, positions = (
        jax.random.normal(k, (n, 8)) for k, n in zip(keys[:2], (3, 5), strict=True)
    )
    memory = jax.random.normal(keys[2], (1, 5, 8))
    order = np.array([3, 1, 4, 0, 2])
    decode = jax.jit(lambda memory, positions: decoder(queries, memory, positions)[-1])
    forward = decode(memory, positions)
    shuffled = decode(memory[:, order], positions[order])
    np.testing.assert_allclose(forward, shuffled, atol=1e-5)
    moved = decode(memory, positions[order])
    assert np.abs(forward - moved).max() > 1e-3


def test_pixel_embeddings_at_any_size():
    def create(rngs):
        return PixelEmbedder(TINY.backbone, TINY.pixel_decoder, 7, rngs=rngs)

    assert output_shapes(create, jnp.zeros((1, 50, 37, 3))).shape == (1, 13, 10, 7)


def test_initial_numbers(compiling_fast):
    """Bounds and deviations of the published initialisation."""
    config = MaskFormerConfig(
        ResNetConfig((1, 1, 1, 1), stem_width=8, width=8, out_width=16),
        PixelDecoderConfig(32, 32),
        PredictorConfig(LayerConfig(64, 2, 96), 100, 0, 1),
    )
    params, _ = initialize(creator(config, linear(40)), 0)
    layer = "predictor/decoder/layers/0"
    bounds = {
        "pixel_decoder/smoothers/3/conv/kernel": (3 / (128 * 9)) ** 0.5,
        "pixel_decoder/adapters/1/conv/kernel": (3 / 32) ** 0.5,
        "pixel_decoder/out/kernel": (3 / (32 * 9)) ** 0.5,
        "predictor/projection/kernel": (3 / 128) ** 0.5,
        f"{layer}/cross_attention/key/kernel": (6 / (4 * 64)) ** 0.5,
        f"{layer}/attention/out/kernel": (6 / 128) ** 0.5,
        f"{layer}/mlp/fc1/kernel": (6 / (64 + 96)) ** 0.5,
        f"{layer}/mlp/fc2/kernel": (6 / (64 + 96)) ** 0.5,
        f"{layer}/mlp/fc2/bias": 96**-0.5,
        "predictor/class_head/kernel": 1 / 8,
        "predictor/class_head/bias": 1 / 8,
        "predictor/mask_head/layers/0/bias": 1 / 8,
    }
    for path, bound in bounds.items():
        largest = np.abs(params[path]).max()
        assert 0.9 * bound < largest <= bound, path
    zeros = ("pixel_decoder/out/bias", "predictor/projection/bias", f"{layer}/attention/query/bias")
    assert not any(np.any(params[path]) for path in zeros)
    deviations = {
        "backbone/stages/3/0/conv2/kernel": (2 / (64 * 9)) ** 0.5,
        "backbone/stages/3/0/conv3/kernel": (2 / 128) ** 0.5,
        "predictor/queries": 1.0,
    }
    for path, deviation in deviations.items():
        np.testing.assert_allclose(params[path].std(), deviation, rtol=0.03, err_msg=path)


def test_the_published_shapes():
    create = creator(MaskFormerConfig(RESNET_SIZES["R101c"]), linear(172))
    outputs = output_shapes(create, jax.ShapeDtypeStruct((1, 640, 640, 3), jnp.float32))
    assert outputs.classes.shape == (6, 1, 100, 172)
    assert outputs.masks.shape == (6, 1, 100, 160, 160)
