"""MaskFormer: learned queries, each with a class and the mask of a whole region.

Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS
2021. What a query's class is compared with is not fixed here: the head that reads classes from
queries is given to the network, a Linear for the original, an embedding in CLIP's space for zsseg
(Xu et al., ECCV 2022). That paper's baseline without queries is `PixelEmbedder`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.detr import Decoder, Encoder, LayerConfig, Perceptron
from ovseg_jax.networks.layers import Conv, normal
from ovseg_jax.networks.pixel_decoder import PROJECTION_INIT, PixelDecoder, PixelDecoderConfig
from ovseg_jax.networks.positions import sine_positions
from ovseg_jax.networks.resnet import ResNetConfig


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """Sizes of the part with queries."""

    layer: LayerConfig = dataclasses.field(default_factory=LayerConfig)
    queries: int = 100
    encoder_layers: int = 0
    decoder_layers: int = 6
    reads_encoded: bool = False  # whether it attends to the pixel decoder's transformer


@dataclasses.dataclass(frozen=True)
class MaskFormerConfig:
    """Sizes of the network; the defaults are MaskFormer's with ResNet-50."""

    backbone: ResNetConfig = dataclasses.field(default_factory=ResNetConfig)
    pixel_decoder: PixelDecoderConfig = dataclasses.field(default_factory=PixelDecoderConfig)
    predictor: PredictorConfig = dataclasses.field(default_factory=PredictorConfig)

    def __post_init__(self):
        if self.predictor.reads_encoded and not self.pixel_decoder.encoder_layers:
            raise ValueError("a base pixel decoder has no transformer that could be attended to")


class QueryOutputs(NamedTuple):
    """What queries say after each decoder layer, the last one being the prediction.

    A map of logits is contiguous in memory: losses gather whole maps, and a product with the
    embeddings of the pixels writes them in this order.

    Attributes:
      classes: what the class head made of them, [L, B, Q, C].
      masks: logits, float32 [L, B, Q, H/4, W/4].
    """

    classes: jax.Array
    masks: jax.Array


class Predictor(nnx.Module):
    """Queries that attend to a feature map; classes and masks from each of their states."""

    def __init__(
        self,
        in_dim: int,
        mask_dim: int,
        config: PredictorConfig,
        class_head: nnx.Module,
        *,
        rngs: nnx.Rngs,
    ):
        """Takes the channels of the map and of the pixels, and what reads classes from queries.

        `class_head` maps [..., layer.dim] to [..., C].
        """
        dim = config.layer.dim
        self.config = config
        self.projection = (
            Conv(in_dim, dim, 1, bias=True, kernel_init=PROJECTION_INIT, rngs=rngs)
            if in_dim != dim
            else None
        )
        self.queries = nnx.Param(normal(1.0)(rngs.params(), (config.queries, dim), jnp.float32))
        self.encoder = Encoder(config.layer, config.encoder_layers, rngs=rngs)
        self.decoder = Decoder(config.layer, config.decoder_layers, rngs=rngs)
        self.class_head = class_head
        self.mask_head = Perceptron(dim, dim, mask_dim, 3, rngs=rngs)

    def states(
        self, x: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        """The queries after each decoder layer, [B, Q, D] each, before the norm.

        Args:
          x: feature map [B, h, w, C].
          rngs: for dropout; None = without.

        Returns:
          The states, and on the way `positions` [h, w, D] and `memory` [B, h, w, D].
        """
        x = self.projection(x) if self.projection else x
        b, h, w, d = x.shape
        grid = sine_positions((h, w), d).astype(x.dtype)
        positions, memory = grid.reshape(h * w, d), x.reshape(b, h * w, d)
        memory = self.encoder(memory, positions, rngs)
        states = self.decoder(self.queries[...].astype(x.dtype), memory, positions, rngs)
        return states, {"positions": grid, "memory": memory.reshape(b, h, w, d)}

    def read(self, states: jax.Array, pixels: jax.Array) -> QueryOutputs:
        """Normed states [L, B, Q, D] and pixel embeddings [B, H/4, W/4, E] -> what they say."""
        masks = jnp.einsum(
            "lbqe,bhwe->lbqhw",
            self.mask_head(states),
            pixels,
            preferred_element_type=jnp.float32,
        )
        return QueryOutputs(self.class_head(states), masks)

    def __call__(
        self,
        x: jax.Array,
        pixels: jax.Array,
        *,
        all_layers: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> QueryOutputs:
        """Classes and masks.

        Args:
          x: feature map [B, h, w, C].
          pixels: embeddings [B, H/4, W/4, E].
          all_layers: False = of the last decoder layer alone (L = 1), for prediction.
          rngs: for dropout; None = without.
        """
        states, _ = self.states(x, rngs)
        kept = jnp.stack(states if all_layers else states[-1:])
        return self.read(self.decoder.norm(kept), pixels)


class MaskFormer(nnx.Module):
    """Backbone, pixel decoder and predictor; they compute in the type of the backbone."""

    def __init__(
        self, config: MaskFormerConfig, class_head: nnx.Module, *, rngs: nnx.Rngs, dtype=jnp.float32
    ):
        """As `Predictor`, whose `class_head` it takes."""
        layer, channels = config.predictor.layer, config.backbone.channels
        reads_encoded = config.predictor.reads_encoded
        self.config = config
        self.backbone = config.backbone.build(rngs=rngs, dtype=dtype)
        self.pixel_decoder = PixelDecoder(channels, config.pixel_decoder, layer, rngs=rngs)
        self.predictor = Predictor(
            config.pixel_decoder.dim if reads_encoded else channels[-1],
            config.pixel_decoder.mask_dim,
            config.predictor,
            class_head,
            rngs=rngs,
        )

    def decode(
        self,
        maps: Sequence[jax.Array],
        *,
        all_layers: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> QueryOutputs:
        """What the queries say of the backbone's maps; arguments as in `Predictor`."""
        features, _ = self.pixel_decoder(maps, rngs)
        seen = features.encoded if self.config.predictor.reads_encoded else maps[-1]
        return self.predictor(seen, features.masks, all_layers=all_layers, rngs=rngs)

    def __call__(
        self, image: jax.Array, *, all_layers: bool = True, rngs: nnx.Rngs | None = None
    ) -> QueryOutputs:
        """What the queries say of a picture.

        Args:
          image: normalised RGB [B, H, W, 3], zeros around the picture where the sides were no
            multiples of 32.
          all_layers: see `Predictor`.
          rngs: for dropout; None = without.
        """
        return self.decode(self.backbone(image), all_layers=all_layers, rngs=rngs)


class PixelEmbedder(nnx.Module):
    """Backbone, base pixel decoder and a projection: an embedding for each 4 x 4 pixels."""

    def __init__(
        self,
        backbone: ResNetConfig,
        pixel_decoder: PixelDecoderConfig,
        embed_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
    ):
        self.backbone = backbone.build(rngs=rngs, dtype=dtype)
        self.pixel_decoder = PixelDecoder(
            backbone.channels, pixel_decoder, LayerConfig(), rngs=rngs
        )
        self.predictor = Conv(
            pixel_decoder.mask_dim,
            embed_dim,
            1,
            bias=True,
            kernel_init=normal((2 / embed_dim) ** 0.5),
            rngs=rngs,
        )

    def __call__(self, image: jax.Array) -> jax.Array:
        """Normalised RGB [B, H, W, 3] -> embeddings, not normalised, [B, H/4, W/4, E]."""
        features, _ = self.pixel_decoder(self.backbone(image))
        return self.predictor(features.masks)
