"""ResNet with frozen batch norms, as a backbone: four feature maps of a picture.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. The stem of three
convolutions and the dilations within the last stage ("multi-grid") are those of Chen et al.,
"Rethinking Atrous Convolution for Semantic Image Segmentation", 2017. `clip_resnet` is another
network: it pools where this one strides, and its norms learn.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.layers import Conv, convolve, max_pool

STEMS = ("basic", "deeplab")
# Normal with deviation sqrt(2 / (out * size²)).
_INIT = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a backbone; the defaults are those of ResNet-50."""

    layers: tuple[int, ...] = (3, 4, 6, 3)  # bottlenecks of the stages
    stem: str = "basic"  # one 7 x 7 convolution; 'deeplab': three of 3 x 3
    stem_width: int = 64  # channels that leave the stem
    width: int = 64  # channels inside the bottlenecks of the first stage, doubled in the next
    out_width: int = 256  # channels that leave them, likewise
    multi_grid: tuple[int, ...] = ()  # dilations of the bottlenecks of the last stage; () = ones
    dilation: int = 1  # of the last stage as a whole; above 1 it replaces the stage's stride
    stride_in_1x1: bool = False  # whether a bottleneck strides in its first convolution (Caffe)

    def __post_init__(self):
        if self.stem not in STEMS:
            raise ValueError(f"unknown stem {self.stem!r}; one of {', '.join(STEMS)}")
        # JSON has no tuples.
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "multi_grid", tuple(self.multi_grid))
        if len(self.multi_grid) not in (0, self.layers[-1]):
            raise ValueError(
                f"{len(self.multi_grid)} dilations for {self.layers[-1]} bottlenecks of a stage"
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stages' feature maps."""
        return tuple(self.out_width * 2**number for number in range(len(self.layers)))

    def build(self, *, rngs: nnx.Rngs, dtype=jnp.float32) -> "ResNet":
        """The network of this configuration."""
        return ResNet(self, rngs=rngs, dtype=dtype)


RESNET_SIZES = {
    "R50": ResNetConfig(),
    "R101": ResNetConfig((3, 4, 23, 3)),
    "R101c": ResNetConfig((3, 4, 23, 3), "deeplab", stem_width=128, multi_grid=(1, 2, 4)),
}


class FrozenBatchNorm(nnx.Module):
    """The constants of a batch norm: neither its statistics nor its scale and bias ever change."""

    def __init__(self, dim: int):
        self.scale = nnx.BatchStat(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.BatchStat(jnp.zeros((dim,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((dim,), jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones((dim,), jnp.float32))

    def folded(self) -> tuple[jax.Array, jax.Array]:
        """Scale and shift that do the same, float32 [D] each."""
        scale = self.scale[...] * jax.lax.rsqrt(self.variance[...] + _EPS)
        return scale, self.bias[...] - self.mean[...] * scale


class ConvNorm(Conv):
    """A convolution and its frozen norm, applied as one convolution with a bias."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        rngs: nnx.Rngs,
    ):
        options = dict(stride=stride, dilation=dilation, kernel_init=_INIT, rngs=rngs)
        super().__init__(in_dim, out_dim, size, **options)
        self.norm = FrozenBatchNorm(out_dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, in] to [B, ceil(H/stride), ceil(W/stride), out], in the type of `x`."""
        scale, shift = self.norm.folded()
        y = convolve(x, self.kernel[...] * scale, stride=self.stride, dilation=self.dilation)
        return y + shift.astype(x.dtype)


class Stem(nnx.Module):
    """One or three convolutions, the first with stride 2, and a max pool with stride 2."""

    def __init__(self, kind: str, width: int, *, rngs: nnx.Rngs):
        if kind == "basic":
            self.conv1 = ConvNorm(3, width, 7, stride=2, rngs=rngs)
            self.conv2 = self.conv3 = None
        else:
            self.conv1 = ConvNorm(3, width // 2, 3, stride=2, rngs=rngs)
            self.conv2 = ConvNorm(width // 2, width // 2, 3, rngs=rngs)
            self.conv3 = ConvNorm(width // 2, width, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Image [B, H, W, 3] -> [B, H/4, W/4, width]."""
        for conv in filter(None, (self.conv1, self.conv2, self.conv3)):
            x = jax.nn.relu(conv(x))
        return max_pool(x)


class Bottleneck(nnx.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut."""

    def __init__(
        self,
        in_dim: int,
        dim: int,
        out_dim: int,
        *,
        stride: int,
        dilation: int,
        stride_in_1x1: bool,
        rngs: nnx.Rngs,
    ):
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(in_dim, dim, 1, stride=first, rngs=rngs)
        self.conv2 = ConvNorm(dim, dim, 3, stride=second, dilation=dilation, rngs=rngs)
        self.conv3 = ConvNorm(dim, out_dim, 1, rngs=rngs)
        changes = in_dim != out_dim
        self.shortcut = ConvNorm(in_dim, out_dim, 1, stride=stride, rngs=rngs) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h/stride, w/stride, out]."""
        y = jax.nn.relu(self.conv1(x))
        y = self.conv3(jax.nn.relu(self.conv2(y)))
        return jax.nn.relu(y + (self.shortcut(x) if self.shortcut else x))


class ResNet(nnx.Module):
    """A stem and stages of bottlenecks.

    It reads RGB; backbones trained on BGR are turned when they are converted.
    """

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.dtype = dtype
        self.stem = Stem(config.stem, config.stem_width, rngs=rngs)
        self.stages = nnx.List()
        in_dim, last = config.stem_width, len(config.layers) - 1
        for number, (count, out_dim) in enumerate(zip(config.layers, config.channels, strict=True)):
            dilation = config.dilation if number == last else 1
            grid = (config.multi_grid if number == last else ()) or (1,) * count
            strides = (1 if number == 0 or dilation > 1 else 2, *(1,) * (count - 1))
            dims = itertools.pairwise((in_dim, *(out_dim,) * count))
            self.stages.append(
                nnx.List(
                    Bottleneck(
                        block_in,
                        config.width * 2**number,
                        block_out,
                        stride=stride,
                        dilation=dilation * cell,
                        stride_in_1x1=config.stride_in_1x1,
                        rngs=rngs,
                    )
                    for (block_in, block_out), stride, cell in zip(dims, strides, grid, strict=True)
                )
            )
            in_dim = out_dim

    def features(self, image: jax.Array) -> list[jax.Array]:
        """The feature maps behind the stem and the stages, [B, H/s, W/s, C] each.

        Args:
          image: normalised RGB, [B, H, W, 3].
        """
        maps = [self.stem(image.astype(self.dtype))]
        for stage in self.stages:
            x = maps[-1]
            for block in stage:
                x = block(x)
            maps.append(x)
        return maps

    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Those behind the stages, normally at 1/4, 1/8, 1/16 and 1/32 of the image's size."""
        return self.features(image)[1:]
