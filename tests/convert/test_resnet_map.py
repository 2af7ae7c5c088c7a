"""Backbones as files: the namings of detectron2, torchvision and Caffe2."""

import pickle

import jax
import numpy as np
import pytest

from ovseg_jax.convert.converter import convert, convert_back
from ovseg_jax.convert.resnet import (
    CAFFE2_MAP,
    RESNET_MAP,
    TARGET,
    TORCHVISION_MAP,
    caffe2_config,
    resnet_config,
    torchvision_config,
)
from ovseg_jax.networks.resnet import RESNET_SIZES, ResNetConfig
from ovseg_jax.ops.images import normalize
from ovseg_jax.params import abstract_model, merge_model
from ovseg_jax.pictures import IMAGENET_MEAN, IMAGENET_STD
from ovseg_jax.weights import load_model_json, load_weights

LAYERS = (1, 2, 1, 3)
TINY = {
    "basic": ResNetConfig(LAYERS, stem_width=4, width=2, out_width=6),
    "deeplab": ResNetConfig(LAYERS, "deeplab", 4, width=2, out_width=6, multi_grid=(1, 2, 4)),
    "caffe2": ResNetConfig(LAYERS, stem_width=4, width=2, out_width=6, stride_in_1x1=True),
}
CASES = {
    "detectron2, basic": ("basic", RESNET_MAP, resnet_config),
    "detectron2, deeplab": ("deeplab", RESNET_MAP, resnet_config),
    "torchvision": ("basic", TORCHVISION_MAP, torchvision_config),
    "caffe2": ("caffe2", CAFFE2_MAP, caffe2_config),
}
BESIDE = {
    "detectron2, basic": {"stem.fc.weight": (5, 48), "stem.conv1.norm.num_batches_tracked": ()},
    "detectron2, deeplab": {"stem.fc.bias": (5,), "res3.1.conv2.norm.num_batches_tracked": ()},
    "torchvision": {"fc.weight": (5, 48), "layer1.0.downsample.1.num_batches_tracked": ()},
    "caffe2": {"fc1000_w": (5, 48), "conv1_b": (4,)},
}


def weights(config: ResNetConfig) -> dict[str, np.ndarray]:
    """Random parameters and constants by path."""
    rng = np.random.default_rng(0)
    _, params, stats = abstract_model(lambda rngs: config.build(rngs=rngs))
    return {
        TARGET + path: np.abs(rng.normal(size=leaf.shape)).astype(np.float32)
        for path, leaf in {**params, **stats}.items()
    }


def released(case: str) -> dict[str, np.ndarray]:
    """A backbone in the names of its source, with what such files hold besides."""
    size, name_map, _ = CASES[case]
    others = {name: np.ones(shape, np.float32) for name, shape in BESIDE[case].items()}
    return name_map.outward(weights(TINY[size])) | others


@pytest.mark.parametrize("case", CASES)
def test_sizes_are_read_off_the_tensors(case):
    size, _, config = CASES[case]
    assert config(released(case)) == TINY[size]


@pytest.mark.parametrize("case", CASES)
def test_a_file_there_and_back(tmp_path, case):
    theirs = released(case)
    state = {"model": theirs, "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "backbone.pkl").write_bytes(pickle.dumps(state, protocol=2))
    found = convert(str(tmp_path / "backbone.pkl"), tmp_path / "model")
    assert found.container == "pickle of NumPy arrays"
    assert found.system == "a part of MaskFormer"
    assert set(found.dropped) == BESIDE[case].keys()
    sizes = load_model_json(tmp_path / "model")["backbone"]
    assert ResNetConfig(**sizes) == TINY[CASES[case][0]]
    convert_back(tmp_path / "model", tmp_path / "back.safetensors")
    back = load_weights(tmp_path / "back.safetensors")
    assert back.keys() == theirs.keys() - BESIDE[case].keys()
    for name, value in back.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-6, err_msg=name)


def test_caffe2_reads_undivided_bgr():
    """The converted stem sees the picture as the original did, and its norms only scale."""
    theirs = released("caffe2")
    ours = CAFFE2_MAP.inward(theirs)
    graphdef, _, _ = abstract_model(lambda rngs: TINY["caffe2"].build(rngs=rngs))
    own = {path.removeprefix(TARGET): value for path, value in ours.items()}
    picture = np.random.default_rng(1).integers(0, 256, (1, 9, 9, 3)).astype(np.float32)
    stem = merge_model(graphdef, own).stem.conv1
    found = stem(normalize(picture.astype(np.uint8), IMAGENET_MEAN, IMAGENET_STD))
    bgr = (picture - IMAGENET_MEAN)[..., ::-1].transpose(0, 3, 1, 2)
    plain = jax.lax.conv(bgr.astype(np.float32), theirs["conv1_w"], (2, 2), [(3, 3), (3, 3)])
    scale, shift = (theirs[f"res_conv1_bn_{part}"][:, None, None] for part in "sb")
    expected = np.asarray(plain * scale + shift).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("size", RESNET_SIZES)
def test_released_sizes(size):
    config = RESNET_SIZES[size]
    _, params, stats = abstract_model(lambda rngs: config.build(rngs=rngs))
    theirs = RESNET_MAP.outward(
        {
            TARGET + path: np.broadcast_to(np.float32(0), leaf.shape)
            for path, leaf in {**params, **stats}.items()
        }
    )
    assert resnet_config(theirs) == config
