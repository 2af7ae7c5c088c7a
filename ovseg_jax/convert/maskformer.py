"""Name map and sizes of MaskFormer in detectron2's names; zsseg's networks have the same.

The rules of the parts stand without prefixes; `MASKFORMER_RULES` joins them, to be used alone or
below a prefix of ours (`name_map.prefixed`).
"""

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
from ovseg_jax.convert.resnet import RESNET_RULES, resnet_config
from ovseg_jax.networks.detr import LayerConfig
from ovseg_jax.networks.maskformer import MaskFormerConfig, PredictorConfig
from ovseg_jax.networks.pixel_decoder import PixelDecoderConfig

HEAD_DIM = 32  # heads are never stored; published models have this width per head


def _conv(source: str, target: str) -> tuple[Rule, ...]:
    """Rows of a convolution with a bias."""
    return (
        rule(f"{source}.weight", f"{target}/kernel", CONV),
        rule(f"{source}.bias", f"{target}/bias"),
    )


def _normed_conv(source: str, target: str) -> tuple[Rule, ...]:
    return (
        rule(f"{source}.weight", f"{target}/conv/kernel", CONV),
        *affine(f"{source}.norm", f"{target}/norm"),
    )


def _layer(source: str, target: str) -> tuple[Rule, ...]:
    """Rows that the layers of encoders and decoders share."""
    return (
        *fused_attention(f"{source}.self_attn", f"{target}/attention"),
        *linear(f"{source}.linear1", f"{target}/mlp/fc1"),
        *linear(f"{source}.linear2", f"{target}/mlp/fc2"),
        *affine(f"{source}.norm1", f"{target}/norm1"),
        *affine(f"{source}.norm2", f"{target}/norm2"),
    )


_ENCODER = (
    *_layer("transformer.encoder.layers.{i}", "encoder/layers/{i}"),
    *affine("transformer.encoder.norm", "encoder/norm"),
)
_DECODER_LAYER, _OURS = "transformer.decoder.layers.{i}", "decoder/layers/{i}"

PIXEL_DECODER_RULES = (
    *(row for n in (1, 2, 3) for row in _normed_conv(f"adapter_{n}", f"adapters/{n - 1}")),
    *(row for n in (1, 2, 3, 4) for row in _normed_conv(f"layer_{n}", f"smoothers/{n - 1}")),
    *_conv("mask_features", "out"),
    *_conv("input_proj", "map_encoder/projection"),
    *prefixed(_ENCODER, target="map_encoder/"),
)
PREDICTOR_RULES = (
    *_conv("input_proj", "projection"),
    rule("query_embed.weight", "queries"),
    *_ENCODER,
    *_layer(_DECODER_LAYER, _OURS),
    *fused_attention(f"{_DECODER_LAYER}.multihead_attn", f"{_OURS}/cross_attention"),
    *affine(f"{_DECODER_LAYER}.norm3", f"{_OURS}/norm3"),
    *affine("transformer.decoder.norm", "decoder/norm"),
    *linear("class_embed", "class_head"),
    *linear("class_embed.layers.{i}", "class_head/layers/{i}"),  # zsseg's
    *linear("mask_embed.layers.{i}", "mask_head/layers/{i}"),
)
MASKFORMER_RULES = (
    *prefixed(RESNET_RULES, "backbone.", "backbone/"),
    *prefixed(PIXEL_DECODER_RULES, "sem_seg_head.pixel_decoder.", "pixel_decoder/"),
    *prefixed(PREDICTOR_RULES, "sem_seg_head.predictor.", "predictor/"),
    *_conv("sem_seg_head.predictor", "predictor"),  # of `PixelEmbedder`
)
# The weights of the classes in the loss, which the loss knows.
DROPPED = ("criterion.empty_weight",)

MASKFORMER_MAP = NameMap("MaskFormer", MASKFORMER_RULES, DROPPED)


def _count(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    suffix = ".linear1.weight"
    return sum(name.startswith(prefix) and name.endswith(suffix) for name in tensors)


def pixel_decoder_config(
    tensors: Mapping[str, np.ndarray], prefix: str = "sem_seg_head.pixel_decoder."
) -> PixelDecoderConfig:
    """Sizes of a pixel decoder from the names and shapes of its tensors."""
    mask_dim, dim = tensors[f"{prefix}mask_features.weight"].shape[:2]
    layers = _count(tensors, f"{prefix}transformer.encoder.layers.")
    return PixelDecoderConfig(dim, mask_dim, layers)


def predictor_config(
    tensors: Mapping[str, np.ndarray],
    prefix: str = "sem_seg_head.predictor.",
    reads_encoded: bool = False,
    **layer,
) -> PredictorConfig:
    """Sizes of a predictor from the names and shapes of its tensors.

    Args:
      tensors: by source name.
      prefix: what stands before the predictor's names.
      reads_encoded: see `PredictorConfig`; the tensors do not tell.
      **layer: fields of `LayerConfig` that they do not tell either: `heads` (default width / 32),
        `pre_norm`, `dropout`.
    """
    queries, dim = tensors[f"{prefix}query_embed.weight"].shape
    hidden = tensors[f"{prefix}transformer.decoder.layers.0.linear1.weight"].shape[0]
    fields = dict(dim=dim, heads=max(1, dim // HEAD_DIM), hidden=hidden)
    return PredictorConfig(
        LayerConfig(**(fields | layer)),
        queries,
        _count(tensors, f"{prefix}transformer.encoder.layers."),
        _count(tensors, f"{prefix}transformer.decoder.layers."),
        reads_encoded,
    )


def maskformer_config(
    tensors: Mapping[str, np.ndarray],
    backbone: Mapping | None = None,
    predictor: Mapping | None = None,
) -> MaskFormerConfig:
    """Sizes of a MaskFormer; the mappings hold what its tensors do not tell.

    Args:
      tensors: by source name.
      backbone: fields for `resnet_config`.
      predictor: fields for `predictor_config`.
    """
    return MaskFormerConfig(
        resnet_config(tensors, "backbone.", **(backbone or {})),
        pixel_decoder_config(tensors),
        predictor_config(tensors, **(predictor or {})),
    )
