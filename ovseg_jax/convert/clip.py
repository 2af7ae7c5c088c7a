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
from ovseg_jax.networks.clip_resnet import STRIDE, ResNetConfig


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


def _norm(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of a batch norm with its running statistics."""
    return (
        *affine(source, target),
        rule(f"{source}.running_mean", f"{target}/mean"),
        rule(f"{source}.running_var", f"{target}/variance"),
    )


def _conv_norms(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of the three convolutions, each with its norm, of the stem or of a bottleneck."""
    rows = ()
    for i in (1, 2, 3):
        rows += (rule(f"{source}conv{i}.weight", f"{target}/conv{i}/kernel", CONV),)
        rows += _norm(f"{source}bn{i}", f"{target}/norm{i}")
    return rows


def _stage(number: int) -> tuple[Rule, ...]:
    theirs, ours = f"layer{number}.{{i}}.", f"stages/{number - 1}/{{i}}"
    return (
        *_conv_norms(theirs, ours),
        rule(f"{theirs}downsample.0.weight", f"{ours}/shortcut/conv/kernel", CONV),
        *_norm(f"{theirs}downsample.1", f"{ours}/shortcut/norm"),
    )


RESNET_RULES = (
    *_conv_norms("", "stem"),
    *(row for number in (1, 2, 3, 4) for row in _stage(number)),
    rule("attnpool.positional_embedding", "attention_pool/positions"),
    *linear("attnpool.q_proj", "attention_pool/query"),
    *linear("attnpool.k_proj", "attention_pool/key"),
    *linear("attnpool.v_proj", "attention_pool/value"),
    *linear("attnpool.c_proj", "attention_pool/out"),
)

TEXT_RULES = (
    rule("token_embedding.weight", "token_embedding"),
    rule("positional_embedding", "positions"),
    *_blocks("transformer"),
    *affine("ln_final", "norm"),
    rule("text_projection", "projection"),
)


# Steps that batch norms have seen; only a momentum that the reference does not use needs them.
_COUNTERS = tuple(
    f"visual.{place}.num_batches_tracked"
    for place in (
        "bn{i}",
        "layer{i}.{j}.bn{k}",
        "layer{i}.{j}.downsample.1",
    )
)


def _openai_map(image: tuple[Rule, ...]) -> NameMap:
    return NameMap(
        source="CLIP",
        rules=(
            *prefixed(image, "visual.", "clip/image/"),
            *prefixed(TEXT_RULES, "", "clip/text/"),
            rule("logit_scale", "clip/logit_scale"),
        ),
        dropped=("input_resolution", "context_length", "vocab_size", *_COUNTERS),
    )


CLIP_MAP = _openai_map(VIT_RULES)
CLIP_RESNET_MAP = _openai_map(RESNET_RULES)

HEAD_DIM = 64  # heads are never stored; every released model has this width per head


def _count_blocks(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    suffix = ".attn.in_proj_bias"
    return sum(name.startswith(prefix) and name.endswith(suffix) for name in tensors)


def _count_bottlenecks(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    inside = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return len({name.partition(".")[0] for name in inside})


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


def resnet_config(tensors: Mapping[str, np.ndarray], prefix: str = "visual.") -> ResNetConfig:
    """Sizes of a convolutional image tower from the names and shapes of its tensors."""
    grid = math.isqrt(tensors[f"{prefix}attnpool.positional_embedding"].shape[0] - 1)
    return ResNetConfig(
        image_size=STRIDE * grid,
        layers=tuple(
            len(
                {
                    name.removeprefix(prefix).split(".")[1]
                    for name in tensors
                    if name.startswith(f"{prefix}layer{i}.")
                }
            )
            for i in (1, 2, 3, 4)
        ),
        width=tensors[f"{prefix}layer1.0.conv1.weight"].shape[0],
    )


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
    """Sizes of a CLIP; `image` (of a transformer) and `text` override fields."""
    transformer = "visual.proj" in tensors
    return CLIPConfig(
        embed_dim=tensors["text_projection"].shape[1],
        image=vit_config(tensors, **(image or {})) if transformer else resnet_config(tensors),
        text=text_config(tensors, **(text or {})),
    )
