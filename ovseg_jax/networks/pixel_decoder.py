"""MaskFormer's pixel decoder: a feature pyramid that ends in one embedding for 4 x 4 pixels.

Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS
2021, section 3.4; the pyramid is that of Lin et al., "Feature Pyramid Networks", CVPR 2017.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import nnx

from ovseg_jax.networks.detr import Encoder, LayerConfig
from ovseg_jax.networks.layers import Conv, GroupNorm
from ovseg_jax.networks.positions import sine_positions
from ovseg_jax.ops.resize import resize

# Uniform within sqrt(3 / (in * size²)).
PROJECTION_INIT = jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class PixelDecoderConfig:
    """Sizes of a pixel decoder; the defaults are MaskFormer's base decoder."""

    dim: int = 256  # channels of the pyramid
    mask_dim: int = 256  # channels of the result
    encoder_layers: int = 0  # of a transformer over the coarsest map; 0 = no transformer


class PixelFeatures(NamedTuple):
    """What a pixel decoder gives.

    Attributes:
      masks: embeddings of pixels, [B, H/4, W/4, mask_dim].
      encoded: the coarsest map after the transformer, [B, H/32, W/32, dim]; None without one.
    """

    masks: jax.Array
    encoded: jax.Array | None


class NormedConv(nnx.Module):
    """A convolution without bias, and a group norm."""

    def __init__(self, in_dim: int, out_dim: int, size: int, *, rngs: nnx.Rngs):
        self.conv = Conv(in_dim, out_dim, size, kernel_init=PROJECTION_INIT, rngs=rngs)
        self.norm = GroupNorm(out_dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, in] -> [B, h, w, out]."""
        return self.norm(self.conv(x))


class MapEncoder(nnx.Module):
    """A projection of a feature map, and a transformer over its positions."""

    def __init__(self, in_dim: int, config: LayerConfig, layers: int, *, rngs: nnx.Rngs):
        self.projection = Conv(
            in_dim, config.dim, 1, bias=True, kernel_init=PROJECTION_INIT, rngs=rngs
        )
        self.encoder = Encoder(config, layers, rngs=rngs)

    def __call__(
        self, x: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """[B, h, w, in] -> [B, h, w, dim], and on the way `projected` and `positions`."""
        x = self.projection(x)
        b, h, w, d = x.shape
        positions = sine_positions((h, w), d).astype(x.dtype)
        tokens = self.encoder(x.reshape(b, h * w, d), positions.reshape(h * w, d), rngs)
        return tokens.reshape(b, h, w, d), {"projected": x, "positions": positions}


class PixelDecoder(nnx.Module):
    """From coarse to fine: each map is added to what the coarser ones gave, and smoothed."""

    def __init__(
        self,
        channels: Sequence[int],
        config: PixelDecoderConfig,
        layer: LayerConfig,
        *,
        rngs: nnx.Rngs,
    ):
        """Takes the channels of the maps, fine to coarse, and the sizes of transformer layers."""
        *finer, coarsest = channels
        dim = config.dim
        self.map_encoder = (
            MapEncoder(
                coarsest, dataclasses.replace(layer, dim=dim), config.encoder_layers, rngs=rngs
            )
            if config.encoder_layers
            else None
        )
        widths = (*[dim] * len(finer), dim if self.map_encoder else coarsest)
        self.adapters = nnx.List(NormedConv(width, dim, 1, rngs=rngs) for width in finer)
        self.smoothers = nnx.List(NormedConv(width, dim, 3, rngs=rngs) for width in widths)
        self.out = Conv(dim, config.mask_dim, 3, bias=True, kernel_init=PROJECTION_INIT, rngs=rngs)

    def __call__(
        self, maps: Sequence[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[PixelFeatures, dict[str, jax.Array]]:
        """Runs the pyramid.

        Args:
          maps: of a backbone, fine to coarse, [B, H/s, W/s, C] each.
          rngs: for the transformer's dropout; None = without.

        Returns:
          The features, and what arose on the way: `adapter_i` and `smoother_i`, and of a
          transformer `projected` and `positions`.
        """
        *finer, coarsest = maps
        encoded, trace = None, {}
        if self.map_encoder:
            encoded, trace = self.map_encoder(coarsest, rngs)
            coarsest = encoded
        y = jax.nn.relu(self.smoothers[-1](coarsest))
        trace[f"smoother_{len(finer)}"] = y
        for i in reversed(range(len(finer))):
            adapted = self.adapters[i](finer[i])
            y = adapted + resize(y, adapted.shape[1:3], "nearest")
            y = jax.nn.relu(self.smoothers[i](y))
            trace |= {f"adapter_{i}": adapted, f"smoother_{i}": y}
        return PixelFeatures(self.out(y), encoded), trace
