import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ovseg_jax.networks.resnet import RESNET_SIZES, ConvNorm, ResNetConfig
from ovseg_jax.params import abstract_model, merge_model

TINY = ResNetConfig((1, 1, 1, 3), stem_width=4, width=2, out_width=8)


def shapes(config, height, width):
    graphdef, params, stats = abstract_model(lambda rngs: config.build(rngs=rngs))
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    maps = jax.eval_shape(
        lambda weights, image: merge_model(graphdef, weights).features(image),
        {**params, **stats},
        image,
    )
    return [x.shape[1:] for x in maps]


@pytest.mark.parametrize("size", RESNET_SIZES)
def test_published_sizes(size):
    stem = 128 if size == "R101c" else 64
    sides = [(160, 128, stem), (160, 128, 256), (80, 64, 512), (40, 32, 1024), (20, 16, 2048)]
    assert shapes(RESNET_SIZES[size], 640, 512) == sides


# torchvision's counts without the classifier of 1000 classes and without the norms' weights.
@pytest.mark.parametrize(("size", "count"), [("R50", 23_454_912), ("R101", 42_394_816)])
def test_the_constants_of_the_norms_are_no_parameters(size, count):
    _, params, stats = abstract_model(lambda rngs: RESNET_SIZES[size].build(rngs=rngs))
    assert sum(int(np.prod(leaf.shape)) for leaf in params.values()) == count
    assert all(path.endswith("/kernel") for path in params)
    assert {path.rpartition("/")[2] for path in stats} == {"scale", "bias", "mean", "variance"}


def test_odd_sides_are_rounded_up():
    assert [s[:2] for s in shapes(TINY, 37, 66)] == [(10, 17), (10, 17), (5, 9), (3, 5), (2, 3)]


def test_a_dilated_last_stage_keeps_its_size():
    dilated = ResNetConfig((1, 1, 1, 3), stem_width=4, width=2, out_width=8, dilation=2)
    assert [s[:2] for s in shapes(dilated, 64, 64)][-2:] == [(4, 4), (4, 4)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1]),
        ({"multi_grid": (1, 2, 4)}, [1, 2, 4]),
        ({"multi_grid": (1, 2, 4), "dilation": 2}, [2, 4, 8]),
    ],
)
def test_dilations_of_the_last_stage(options, expected):
    config = ResNetConfig((1, 2, 1, 3), stem_width=4, width=2, out_width=8, **options)
    stages = nnx.eval_shape(lambda: config.build(rngs=nnx.Rngs(0))).stages
    assert [block.conv2.dilation for block in stages[-1]] == expected
    assert [block.conv2.dilation for stage in list(stages)[:-1] for block in stage] == [1] * 4


@pytest.mark.parametrize(("in_1x1", "strides"), [(False, (1, 2)), (True, (2, 1))])
def test_where_a_bottleneck_strides(in_1x1, strides):
    config = ResNetConfig((1, 1, 1, 1), stem_width=4, width=2, out_width=8, stride_in_1x1=in_1x1)
    block = nnx.eval_shape(lambda: config.build(rngs=nnx.Rngs(0))).stages[1][0]
    assert (block.conv1.stride, block.conv2.stride) == strides
    assert block.shortcut.stride == 2


def test_norm_and_convolution_in_one():
    conv = ConvNorm(3, 4, 3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    scale, bias, mean = rng.normal(size=(3, 4)).astype(np.float32)
    variance = rng.uniform(0.5, 2, 4).astype(np.float32)
    x = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    plain = conv(x) * np.sqrt(1 + 1e-5)  # a fresh norm only divides by that
    for name, value in dict(scale=scale, bias=bias, mean=mean, variance=variance).items():
        getattr(conv.norm, name)[...] = jnp.asarray(value)
    expected = (plain - mean) / np.sqrt(variance + 1e-5) * scale + bias
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)


def test_wrong_options():
    with pytest.raises(ValueError, match="unknown stem 'deep'"):
        ResNetConfig(stem="deep")
    with pytest.raises(ValueError, match="2 dilations for 3 bottlenecks"):
        ResNetConfig(multi_grid=(1, 2))
