"""Name maps and sizes of ResNet backbones: detectron2's, torchvision's and Caffe2's names.

Backbones of detectron2's zoo come as pickles of NumPy arrays in one of two namings. Those with
'stem' in their names were trained with PyTorch (torchvision's R-50 and R-101, and R-103, whose
stem has three convolutions) and read RGB, as everything here does. Those in Caffe2's names (the
zoo's MSRA models) read BGR from which the mean was subtracted and which was divided by nothing.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ovseg_jax.convert.name_map import CONV, NameMap, Rule, Transform, affine, prefixed, rule
from ovseg_jax.networks.resnet import ResNetConfig
from ovseg_jax.pictures import IMAGENET_STD

STAGES = (1, 2, 3, 4)
CONVS = (1, 2, 3)
# Where MaskFormer's backbone lies in the systems that have one.
TARGET = "maskformer/backbone/"


def _conv_norm(conv: str, norm: str, ours: str) -> tuple[Rule, ...]:
    """Rows of a convolution and its frozen norm."""
    return (
        rule(f"{conv}.weight", f"{ours}/kernel", CONV),
        *affine(norm, f"{ours}/norm"),
        rule(f"{norm}.running_mean", f"{ours}/norm/mean"),
        rule(f"{norm}.running_var", f"{ours}/norm/variance"),
    )


def _detectron2_rules() -> tuple[Rule, ...]:
    places = {f"stem.conv{k}": f"stem/conv{k}" for k in CONVS}
    for n in STAGES:
        theirs, ours = f"res{n + 1}.{{i}}", f"stages/{n - 1}/{{i}}"
        places |= {f"{theirs}.conv{k}": f"{ours}/conv{k}" for k in CONVS}
        places[f"{theirs}.shortcut"] = f"{ours}/shortcut"
    return tuple(
        row for theirs, ours in places.items() for row in _conv_norm(theirs, f"{theirs}.norm", ours)
    )


def _torchvision_rules() -> tuple[Rule, ...]:
    rows = _conv_norm("conv1", "bn1", "stem/conv1")
    for n in STAGES:
        theirs, ours = f"layer{n}.{{i}}", f"stages/{n - 1}/{{i}}"
        for k in CONVS:
            rows += _conv_norm(f"{theirs}.conv{k}", f"{theirs}.bn{k}", f"{ours}/conv{k}")
        shortcut = f"{theirs}.downsample"
        rows += _conv_norm(f"{shortcut}.0", f"{shortcut}.1", f"{ours}/shortcut")
    return rows


# Their norms hold one scale and one shift; detectron2 divides by sqrt(1 - 1e-5 + 1e-5).
_SCALE = Transform(lambda a: (a, np.full_like(a, 1 - 1e-5)), lambda parts: parts[0])
_SHIFT = Transform(lambda a: (a, np.zeros_like(a)), lambda parts: parts[0])  # bias and mean
_STD = np.asarray(IMAGENET_STD, np.float32)[:, None]
_BGR = Transform(  # a kernel for undivided BGR <-> one for RGB divided by ImageNet's deviation
    lambda a: (a.transpose(2, 3, 1, 0)[:, :, ::-1] * _STD,),
    lambda parts: (parts[0] / _STD)[:, :, ::-1].transpose(3, 2, 0, 1),
)


def _caffe2_rules() -> tuple[Rule, ...]:
    def norm(theirs, ours):
        return (
            rule(f"{theirs}_bn_s", [f"{ours}/norm/scale", f"{ours}/norm/variance"], _SCALE),
            rule(f"{theirs}_bn_b", [f"{ours}/norm/bias", f"{ours}/norm/mean"], _SHIFT),
        )

    rows = (rule("conv1_w", "stem/conv1/kernel", _BGR), *norm("res_conv1", "stem/conv1"))
    branches = {
        "branch1": "shortcut",
        "branch2a": "conv1",
        "branch2b": "conv2",
        "branch2c": "conv3",
    }
    for n in STAGES:
        for branch, conv in branches.items():
            theirs, ours = f"res{n + 1}_{{i}}_{branch}", f"stages/{n - 1}/{{i}}/{conv}"
            rows += (rule(f"{theirs}_w", f"{ours}/kernel", CONV), *norm(theirs, ours))
    return rows


RESNET_RULES = _detectron2_rules()

_CLASSIFIER = ("weight", "bias")
RESNET_MAP = NameMap(
    source="detectron2 ResNet",
    rules=prefixed(RESNET_RULES, target=TARGET),
    dropped=(
        *(f"stem.fc.{part}" for part in _CLASSIFIER),
        "stem.conv{k}.norm.num_batches_tracked",
        "res{n}.{i}.conv{k}.norm.num_batches_tracked",
        "res{n}.{i}.shortcut.norm.num_batches_tracked",
    ),
)
TORCHVISION_MAP = NameMap(
    source="torchvision ResNet",
    rules=prefixed(_torchvision_rules(), target=TARGET),
    dropped=(
        *(f"fc.{part}" for part in _CLASSIFIER),
        "bn1.num_batches_tracked",
        "layer{n}.{i}.bn{k}.num_batches_tracked",
        "layer{n}.{i}.downsample.1.num_batches_tracked",
    ),
)
CAFFE2_MAP = NameMap(
    source="Caffe2 ResNet",
    rules=prefixed(_caffe2_rules(), target=TARGET),
    # detectron2 ignores the bias before the first norm as well.
    dropped=("conv1_b", "fc1000_w", "fc1000_b"),
)


def _sizes(
    tensors: Mapping[str, np.ndarray], convs: Sequence[str], last: str, stem: str
) -> ResNetConfig:
    """Sizes, from the names of some kernels.

    Args:
      tensors: by source name.
      convs: the first kernel of each bottleneck, '{i}' for its number, of each stage.
      last: the last kernel of the first bottleneck.
      stem: the last kernel of the stem.
    """

    def count(conv):
        return next(i for i in itertools.count() if conv.format(i=i) not in tensors)

    return ResNetConfig(
        layers=tuple(map(count, convs)),
        stem_width=tensors[stem].shape[0],
        width=tensors[convs[0].format(i=0)].shape[0],
        out_width=tensors[last].shape[0],
    )


def resnet_config(tensors: Mapping[str, np.ndarray], prefix: str = "", **overrides) -> ResNetConfig:
    """Sizes of a backbone in detectron2's names.

    Args:
      tensors: by source name.
      prefix: what stands before the backbone's names.
      **overrides: fields that the tensors do not tell: `multi_grid` (default: 1, 2 and 4 behind
        the stem of three convolutions, as published), `dilation`, `stride_in_1x1`.
    """
    deep = f"{prefix}stem.conv3.weight" in tensors
    sizes = _sizes(
        tensors,
        [f"{prefix}res{n + 1}.{{i}}.conv1.weight" for n in STAGES],
        f"{prefix}res2.0.conv3.weight",
        f"{prefix}stem.conv{3 if deep else 1}.weight",
    )
    fields = dict(
        stem="deeplab" if deep else "basic",
        multi_grid=(1, 2, 4) if deep and sizes.layers[-1] == 3 else (),
    )
    return dataclasses.replace(sizes, **(fields | overrides))


def torchvision_config(tensors: Mapping[str, np.ndarray]) -> ResNetConfig:
    """Sizes of torchvision's networks of bottlenecks."""
    convs = [f"layer{n}.{{i}}.conv1.weight" for n in STAGES]
    return _sizes(tensors, convs, "layer1.0.conv3.weight", "conv1.weight")


def caffe2_config(tensors: Mapping[str, np.ndarray]) -> ResNetConfig:
    """Sizes of backbones in Caffe2's names; they stride in the first convolution."""
    convs = [f"res{n + 1}_{{i}}_branch2a_w" for n in STAGES]
    sizes = _sizes(tensors, convs, "res2_0_branch2c_w", "conv1_w")
    return dataclasses.replace(sizes, stride_in_1x1=True)
