"""CLIP's ModifiedResNet: three-convolution stem, average pools in place of strides, attention pool.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
section 2.4.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.layers import (
    BatchNorm,
    Conv,
    Linear,
    attend,
    average_pool,
    merge_heads,
    normal,
    split_heads,
)
from ovseg_jax.networks.positions import resize_positions

EXPANSION = 4  # channels that leave a bottleneck, over those inside
HEAD_DIM = 64  # width of a head of the attention pool
STRIDE = 32  # pixels per position of the last feature map


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of the convolutional image tower."""

    image_size: int = 224  # pixels that the position table stands for
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)  # bottlenecks of the stages
    width: int = 64  # channels that leave the stem

    @property
    def patch_size(self) -> int:
        """Pixels from one feature to the next."""
        return STRIDE

    @property
    def channels(self) -> int:
        """Channels of the last feature map."""
        return self.width * 8 * EXPANSION

    @property
    def heads(self) -> int:
        """Heads of the attention pool."""
        return self.channels // HEAD_DIM

    @property
    def grid(self) -> int:
        """Side of the last feature map that the position table stands for."""
        return self.image_size // STRIDE

    def build(self, embed_dim: int, *, rngs: nnx.Rngs, dtype=jnp.float32) -> "ModifiedResNet":
        """The image tower of this configuration."""
        return ModifiedResNet(self, embed_dim, rngs=rngs, dtype=dtype)


class Stem(nnx.Module):
    """Three 3 x 3 convolutions, the first with stride 2, and a 2 x 2 average pool."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(3, width // 2, 3, stride=2, rngs=rngs)
        self.norm1 = BatchNorm(width // 2)
        self.conv2 = Conv(width // 2, width // 2, 3, rngs=rngs)
        self.norm2 = BatchNorm(width // 2)
        self.conv3 = Conv(width // 2, width, 3, rngs=rngs)
        self.norm3 = BatchNorm(width)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Image [B, H, W, 3] -> [B, H/4, W/4, width]."""
        pairs = (
            (self.conv1, self.norm1),
            (self.conv2, self.norm2),
            (self.conv3, self.norm3),
        )
        for conv, norm in pairs:
            x = jax.nn.relu(norm(conv(x), train=train))
        return average_pool(x, 2)


class Shortcut(nnx.Module):
    """Average pool, 1 x 1 convolution and norm beside a bottleneck that changes the shape."""

    def __init__(self, in_dim: int, out_dim: int, stride: int, *, rngs: nnx.Rngs):
        self.conv = Conv(in_dim, out_dim, 1, rngs=rngs)
        self.norm = BatchNorm(out_dim)
        self.stride = stride

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, h, w, C] -> [B, h/stride, w/stride, out]."""
        return self.norm(self.conv(average_pool(x, self.stride)), train=train)


class Bottleneck(nnx.Module):
    """1 x 1, 3 x 3, pool, 1 x 1 and the shortcut; every convolution has stride 1."""

    def __init__(self, in_dim: int, dim: int, stride: int, *, rngs: nnx.Rngs):
        out_dim = dim * EXPANSION
        self.conv1 = Conv(in_dim, dim, 1, rngs=rngs)
        self.norm1 = BatchNorm(dim)
        self.conv2 = Conv(dim, dim, 3, rngs=rngs)
        self.norm2 = BatchNorm(dim)
        self.conv3 = Conv(dim, out_dim, 1, rngs=rngs)
        self.norm3 = BatchNorm(out_dim, scale_init=jax.nn.initializers.zeros)
        changes = stride > 1 or in_dim != out_dim
        self.shortcut = Shortcut(in_dim, out_dim, stride, rngs=rngs) if changes else None
        self.stride = stride

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, h, w, C] -> [B, h/stride, w/stride, 4 dim]."""
        y = jax.nn.relu(self.norm1(self.conv1(x), train=train))
        y = jax.nn.relu(self.norm2(self.conv2(y), train=train))
        y = self.norm3(self.conv3(average_pool(y, self.stride)), train=train)
        return jax.nn.relu(y + (self.shortcut(x, train=train) if self.shortcut else x))


class AttentionPool(nnx.Module):
    """The mean of all positions asks, positions and mean answer: one feature of a picture."""

    def __init__(self, config: ResNetConfig, embed_dim: int, *, rngs: nnx.Rngs):
        dim = config.channels
        init = normal(dim**-0.5)
        self.positions = nnx.Param(init(rngs.params(), (1 + config.grid**2, dim), jnp.float32))
        self.query = Linear(dim, dim, rngs=rngs, kernel_init=init)
        self.key = Linear(dim, dim, rngs=rngs, kernel_init=init)
        self.value = Linear(dim, dim, rngs=rngs, kernel_init=init)
        self.out = Linear(dim, embed_dim, rngs=rngs, kernel_init=init)
        self.heads = config.heads

    def embed(self, x: jax.Array, **resizing) -> jax.Array:
        """[B, h, w, C] -> [B, 1 + h·w, C], the mean first, positions added."""
        b, h, w, c = x.shape
        tokens = x.reshape(b, h * w, c)
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
        positions = resize_positions(self.positions[...], (h, w), **resizing)
        return tokens + positions.astype(x.dtype)

    def dense(self, x: jax.Array) -> jax.Array:
        """Feature map [B, h, w, C] -> what each position alone would answer, [B, h, w, E]."""
        return self.out(self.value(x))

    def answers(self, asking: jax.Array, tokens: jax.Array) -> jax.Array:
        """What some of the tokens [B, 1 + h·w, C], [B, M, C], get from all: [B, M, E]."""
        q = split_heads(self.query(asking), self.heads)  # [B, heads, M, d]
        k, v = (split_heads(f(tokens), self.heads) for f in (self.key, self.value))
        return self.out(merge_heads(attend(q, k, v)))

    def all_answers(self, x: jax.Array, **resizing) -> jax.Array:
        """Feature map [B, h, w, C] -> what mean and positions get, [B, 1 + h·w, E]."""
        tokens = self.embed(x, **resizing)
        return self.answers(tokens, tokens)

    def __call__(self, x: jax.Array, **resizing) -> jax.Array:
        """Feature map [B, h, w, C] -> image feature [B, E], what their mean gets."""
        tokens = self.embed(x, **resizing)
        return self.answers(tokens[:, :1], tokens)[:, 0]


class ModifiedResNet(nnx.Module):
    """CLIP's convolutional image tower."""

    def __init__(self, config: ResNetConfig, embed_dim: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.dtype = dtype
        self.stem = Stem(config.width, rngs=rngs)
        self.stages = nnx.List()
        in_dim = config.width
        for number, count in enumerate(config.layers):
            dim = config.width * 2**number
            stage = nnx.List()
            for i in range(count):
                stride = 2 if number > 0 and i == 0 else 1
                stage.append(Bottleneck(in_dim, dim, stride, rngs=rngs))
                in_dim = dim * EXPANSION
            self.stages.append(stage)
        self.attention_pool = AttentionPool(config, embed_dim, rngs=rngs)

    def features(self, image: jax.Array, *, train: bool = False) -> list[jax.Array]:
        """The feature maps behind the stem and the four stages, [B, H/s, W/s, C] each.

        Args:
          image: normalised, [B, H, W, 3].
          train: whether norms take the statistics of the batch, and remember them.
        """
        maps = [self.stem(image.astype(self.dtype), train=train)]
        for stage in self.stages:
            x = maps[-1]
            for block in stage:
                x = block(x, train=train)
            maps.append(x)
        return maps

    def dense(self, image: jax.Array) -> jax.Array:
        """Image [B, H, W, 3] -> a projected feature for each position, [B, H/32, W/32, E].

        Values without attention and positions, as in MaskCLIP (Zhou et al., 2022, section 3.2).
        """
        return self.attention_pool.dense(self.features(image)[-1])

    def __call__(self, image: jax.Array, *, train: bool = False, **resizing) -> jax.Array:
        """Image features [B, E], un-normalised; arguments as `features` and `resize_positions`."""
        return self.attention_pool(self.features(image, train=train)[-1], **resizing)
