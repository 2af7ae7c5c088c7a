"""Name map and sizes of the official DINO and DINOv2 checkpoints."""

import math
from collections.abc import Mapping

import numpy as np

from ovseg_jax.convert.name_map import (
    CONV,
    SPLIT_ROWS,
    SPLIT_ROWS_TRANSPOSE,
    SQUEEZE,
    NameMap,
    Transform,
    affine,
    linear,
    prefixed,
    rule,
)
from ovseg_jax.networks.vit import DinoConfig

HEAD_DIM = 64  # heads are never stored; every released model has this width per head

_BLOCK, _OURS = "blocks.{i}", "blocks/{i}"
_QKV = ("query", "key", "value")
_FIRST_TOKEN = Transform(  # [1, 1, D] <-> [D]
    lambda a: (a[0, 0],), lambda parts: parts[0][None, None]
)

DINO_RULES = (
    rule("cls_token", "class_token", _FIRST_TOKEN),
    rule("pos_embed", "positions", SQUEEZE),
    rule("register_tokens", "registers", SQUEEZE),
    rule("patch_embed.proj.weight", "patch_embed/kernel", CONV),
    rule("patch_embed.proj.bias", "patch_embed/bias"),
    *affine(f"{_BLOCK}.norm1", f"{_OURS}/norm1"),
    rule(
        f"{_BLOCK}.attn.qkv.weight",
        [f"{_OURS}/attention/{part}/kernel" for part in _QKV],
        SPLIT_ROWS_TRANSPOSE,
    ),
    rule(
        f"{_BLOCK}.attn.qkv.bias", [f"{_OURS}/attention/{part}/bias" for part in _QKV], SPLIT_ROWS
    ),
    *linear(f"{_BLOCK}.attn.proj", f"{_OURS}/attention/out"),
    rule(f"{_BLOCK}.ls1.gamma", f"{_OURS}/scale1"),
    *affine(f"{_BLOCK}.norm2", f"{_OURS}/norm2"),
    *linear(f"{_BLOCK}.mlp.fc1", f"{_OURS}/mlp/fc1"),
    *linear(f"{_BLOCK}.mlp.fc2", f"{_OURS}/mlp/fc2"),
    rule(f"{_BLOCK}.ls2.gamma", f"{_OURS}/scale2"),
    *affine("norm", "norm"),
)


def dino_map(source: str = "", target: str = "proxy/") -> NameMap:
    """The map with prefixes before the source's names and before our paths.

    The token that stands for hidden patches in DINOv2's training is dropped: features of whole
    pictures never need it.
    """
    return NameMap(
        source="DINO",
        rules=prefixed(DINO_RULES, source, target),
        dropped=(f"{source}mask_token",),
    )


DINO_MAP = dino_map()


def dino_config(tensors: Mapping[str, np.ndarray], prefix: str = "", **overrides) -> DinoConfig:
    """Sizes of a DINO transformer from the names and shapes of its tensors.

    Args:
      tensors: by source name.
      prefix: what stands before the network's names.
      **overrides: fields the tensors do not tell: `heads` (default width / 64).
    """
    width, _, _, patch = tensors[f"{prefix}patch_embed.proj.weight"].shape
    grid = math.isqrt(tensors[f"{prefix}pos_embed"].shape[1] - 1)
    registers = tensors.get(f"{prefix}register_tokens")
    fields = dict(
        image_size=patch * grid,
        patch_size=patch,
        width=width,
        layers=sum(
            name.startswith(f"{prefix}blocks.") and name.endswith(".attn.qkv.bias")
            for name in tensors
        ),
        heads=max(1, width // HEAD_DIM),
        layer_scale=f"{prefix}blocks.0.ls1.gamma" in tensors,
        registers=0 if registers is None else registers.shape[1],
    )
    return DinoConfig(**(fields | overrides))
