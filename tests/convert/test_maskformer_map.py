"""MaskFormer's tensors, as published models list them and at sizes small enough to go around."""

import json
import math

import numpy as np
import pytest

from ovseg_jax.convert.maskformer import MASKFORMER_MAP, maskformer_config
from ovseg_jax.networks.detr import LayerConfig
from ovseg_jax.networks.layers import Linear
from ovseg_jax.networks.maskformer import (
    MaskFormer,
    MaskFormerConfig,
    PixelEmbedder,
    PredictorConfig,
)
from ovseg_jax.networks.pixel_decoder import PixelDecoderConfig
from ovseg_jax.networks.resnet import RESNET_SIZES, ResNetConfig
from ovseg_jax.params import abstract_model
from ovseg_jax.systems.maskformer import param_groups
from ovseg_jax.training.partition import group_index

BACKBONE = ResNetConfig((1, 1, 1, 2), stem_width=4, width=2, out_width=6)


@pytest.fixture(scope="module")
def listed(golden):
    return json.loads((golden / "maskformer" / "state_dict_r101c.json").read_text())


def empty(listed) -> dict[str, np.ndarray]:
    """Arrays of the listed shapes; one repeated number takes no memory."""
    return {
        name: np.broadcast_to(np.float32(0), entry["shape"])
        for name, entry in listed["tensors"].items()
    }


def network(config, class_head):
    dim = config.predictor.layer.dim
    return abstract_model(lambda rngs: MaskFormer(config, class_head(dim, rngs), rngs=rngs))


def linear(classes):
    return lambda dim, rngs: Linear(dim, classes, rngs=rngs)


def test_the_published_model(listed):
    theirs = empty(listed)
    config = maskformer_config(theirs)
    assert config == MaskFormerConfig(RESNET_SIZES["R101c"])
    _, params, stats = network(config, linear(172))
    shapes = {path: leaf.shape for path, leaf in {**params, **stats}.items()}
    MASKFORMER_MAP.inward(theirs, shapes)
    numbers = {path: math.prod(leaf.shape) for path, leaf in params.items()}
    assert sum(numbers.values()) == listed["trainable_parameters"]
    backbone = sum(n for path, n in numbers.items() if path.startswith("backbone/"))
    assert backbone == 42_518_208


def test_rates_and_decays_of_the_published_model(listed):
    prefix, groups = "net/", param_groups("net/")
    decay = 1e-4
    for name, entry in listed["tensors"].items():
        for path in MASKFORMER_MAP.paths(name):
            if entry["kind"] == "trainable":
                group = groups[group_index(prefix + path, groups)]
                found = (group.lr, group.weight_decay * decay)
                assert found == (entry["lr_multiplier"], entry["weight_decay"]), name


def there_and_back(params, stats):
    rng = np.random.default_rng(0)
    ours = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in {**params, **stats}.items()
    }
    theirs = MASKFORMER_MAP.outward(ours)
    back = MASKFORMER_MAP.inward(theirs, {path: value.shape for path, value in ours.items()})
    for path, value in ours.items():
        np.testing.assert_array_equal(back[path], value, err_msg=path)
    return theirs


@pytest.mark.parametrize(
    "config",
    [
        MaskFormerConfig(
            BACKBONE, PixelDecoderConfig(32, 5), PredictorConfig(LayerConfig(8, 2, 6), 3, 0, 2)
        ),
        MaskFormerConfig(
            ResNetConfig((1, 1, 1, 1), "deeplab", stem_width=4, width=2, out_width=6),
            PixelDecoderConfig(32, 5, encoder_layers=1),
            PredictorConfig(LayerConfig(8, 2, 6, pre_norm=True), 3, 1, 1, reads_encoded=True),
        ),
    ],
    ids=["base", "transformer"],
)
def test_there_and_back(config):
    _, params, stats = network(config, linear(4))
    theirs = there_and_back(params, stats)
    layer = config.predictor.layer
    told = dict(heads=layer.heads, pre_norm=layer.pre_norm)
    reads_encoded = config.predictor.reads_encoded
    assert maskformer_config(theirs, predictor=told | dict(reads_encoded=reads_encoded)) == config
    key = "sem_seg_head.predictor.transformer.decoder.layers.0.multihead_attn.in_proj_weight"
    assert theirs[key].shape == (24, 8)


def test_there_and_back_without_queries():
    _, params, stats = abstract_model(
        lambda rngs: PixelEmbedder(BACKBONE, PixelDecoderConfig(32, 5), 7, rngs=rngs)
    )
    theirs = there_and_back(params, stats)
    assert theirs["sem_seg_head.predictor.weight"].shape == (7, 5, 1, 1)
