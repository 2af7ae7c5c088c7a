"""Name map and sizes of CLIP checkpoints in OpenAI's names."""

import math
from collections.abc import Mapping

import numpy as np

from ovseg_jax.convert.name_map import (
    CONV,
    NameMap,
    Rule,
    affine,
    fused_attention,
    linear,
    prefixed,
    rule,
)
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, ViTConfig


def _blocks(source: str) -> tuple[Rule, ...]:
    theirs, ours = f"{source}.resblocks.{{i}}", "blocks/{i}"
    return (
        *affine(f"{theirs}.ln_1", f"{ours}/norm1"),
        *fused_attention(f"{theirs}.attn", f"{ours}/attention"),
        *affine(f"{theirs}.ln_2", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.c_fc", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.c_proj", f"{ours}/mlp/fc2"),
    )


VIT_RULES = (
    rule("conv1.weight", "patch_embed/kernel", CONV),
    rule("class_embedding", "class_token"),
    rule("positional_embedding", "positions"),
    *affine("ln_pre", "norm_pre"),
    *_blocks("transformer"),
    *affine("ln_post", "norm_post"),
    rule("proj", "projection"),
)

TEXT_RULES = (
    rule("token_embedding.weight", "token_embedding"),
    rule("positional_embedding", "positions"),
    *_blocks("transformer"),
    *affine("ln_final", "norm"),
    rule("text_projection", "projection"),
)

CLIP_MAP = NameMap(
    source="CLIP",
    rules=(
        *prefixed(VIT_RULES, "visual.", "clip/image/"),
        *prefixed(TEXT_RULES, "", "clip/text/"),
        rule("logit_scale", "clip/logit_scale"),
    ),
    dropped=("input_resolution", "context_length", "vocab_size"),
)

HEAD_DIM = 64  # heads are never stored; every released model has this width per head


def _count_blocks(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    suffix = ".attn.in_proj_bias"
    return sum(name.startswith(prefix) and name.endswith(suffix) for name in tensors)


def vit_config(
    tensors: Mapping[str, np.ndarray], prefix: str = "visual.", **overrides
) -> ViTConfig:
    """Sizes of an image transformer from the shapes of its tensors.

    Args:
      tensors: by source name.
      prefix: what stands before the tower's names.
      **overrides: fields the tensors do not tell: `heads` (default width / 64), `activation`.
    """
    width, _, _, patch = tensors[f"{prefix}conv1.weight"].shape
    grid = math.isqrt(tensors[f"{prefix}positional_embedding"].shape[0] - 1)
    fields = dict(
        image_size=patch * grid,
        patch_size=patch,
        width=width,
        layers=_count_blocks(tensors, f"{prefix}transformer."),
        heads=max(1, width // HEAD_DIM),
    )
    return ViTConfig(**(fields | overrides))


def text_config(tensors: Mapping[str, np.ndarray], prefix: str = "", **overrides) -> TextConfig:
    """Sizes of a text transformer from the shapes of its tensors; arguments as `vit_config`."""
    vocab_size, width = tensors[f"{prefix}token_embedding.weight"].shape
    fields = dict(
        context=tensors[f"{prefix}positional_embedding"].shape[0],
        vocab_size=vocab_size,
        width=width,
        layers=_count_blocks(tensors, f"{prefix}transformer."),
        heads=max(1, width // HEAD_DIM),
    )
    return TextConfig(**(fields | overrides))


def clip_config(
    tensors: Mapping[str, np.ndarray], image: Mapping | None = None, text: Mapping | None = None
) -> CLIPConfig:
    """Sizes of a CLIP with an image transformer; `image` and `text` override fields."""
    return CLIPConfig(
        embed_dim=tensors["text_projection"].shape[1],
        image=vit_config(tensors, **(image or {})),
        text=text_config(tensors, **(text or {})),
    )
