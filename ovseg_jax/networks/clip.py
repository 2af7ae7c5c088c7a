"""CLIP: image and text transformers that meet in one embedding space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.clip_resnet import ResNetConfig
from ovseg_jax.networks.layers import Block, BlockInit, LayerNorm, fan_in_uniform, normal
from ovseg_jax.networks.positions import resize_positions


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of the image transformer."""

    image_size: int = 224  # pixels that the position table stands for
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    activation: str = "quick_gelu"  # 'quick_gelu' (OpenAI) | 'gelu' (most OpenCLIP weights)
    pool: str = "token"  # the image feature: 'token' = class token, 'mean' = mean of the patches
    norm_eps: float = 1e-5  # 1e-6 in MaskCLIP's own code

    def __post_init__(self):
        if self.pool not in ("token", "mean"):
            raise ValueError(f"pool {self.pool!r} is neither 'token' nor 'mean'")

    @property
    def grid(self) -> int:
        """Side of the patch grid that the position table stands for."""
        return self.image_size // self.patch_size

    def build(self, embed_dim: int, *, rngs: nnx.Rngs, dtype=jnp.float32) -> "VisionTransformer":
        """The image tower of this configuration."""
        return VisionTransformer(self, embed_dim, rngs=rngs, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the text transformer."""

    context: int = 77
    vocab_size: int = 49408
    width: int = 512
    layers: int = 12
    heads: int = 8
    activation: str = "quick_gelu"


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the size of the space in which they meet."""

    embed_dim: int = 512
    image: ViTConfig | ResNetConfig = ViTConfig()
    text: TextConfig = TextConfig()


_TEXT_768 = TextConfig(width=768, heads=12)
_VIT_L14 = ViTConfig(patch_size=14, width=1024, layers=24, heads=16)

CLIP_SIZES = {
    "ViT-B/32": CLIPConfig(512, ViTConfig(patch_size=32)),
    "ViT-B/16": CLIPConfig(512, ViTConfig()),
    "ViT-L/14": CLIPConfig(768, _VIT_L14, _TEXT_768),
    "ViT-L/14@336px": CLIPConfig(768, dataclasses.replace(_VIT_L14, image_size=336), _TEXT_768),
    "RN50": CLIPConfig(1024, ResNetConfig()),
    "RN101": CLIPConfig(512, ResNetConfig(layers=(3, 4, 23, 3))),
    "RN50x4": CLIPConfig(
        640, ResNetConfig(288, (4, 6, 10, 6), width=80), TextConfig(width=640, heads=10)
    ),
    "RN50x16": CLIPConfig(768, ResNetConfig(384, (6, 8, 18, 8), width=96), _TEXT_768),
    "RN50x64": CLIPConfig(
        1024, ResNetConfig(448, (3, 15, 36, 10), width=128), TextConfig(width=1024, heads=16)
    ),
}


class PatchEmbed(nnx.Module):
    """Convolution with kernel = stride = patch, in CLIP without bias, as one matrix product."""

    def __init__(self, patch: int, width: int, *, rngs: nnx.Rngs, bias: bool = False):
        shape = (patch, patch, 3, width)
        init = fan_in_uniform(3 * patch * patch)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(init(rngs.params(), (width,), jnp.float32)) if bias else None

    def __call__(self, image: jax.Array) -> jax.Array:
        """Image [B, H, W, 3] -> [B, H//p, W//p, D]; a remainder below one patch is cut off."""
        kernel = self.kernel[...].astype(image.dtype)
        p = kernel.shape[0]
        b, height, width, channels = image.shape
        h, w = height // p, width // p
        patches = image[:, : h * p, : w * p].reshape(b, h, p, w, p, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)  # [B, h, w, p*p*3]
        embedded = patches @ kernel.reshape(-1, kernel.shape[-1])
        return embedded if self.bias is None else embedded + self.bias[...].astype(image.dtype)


class VisionTransformer(nnx.Module):
    """CLIP's image transformer, in pieces that dense systems recombine."""

    def __init__(self, config: ViTConfig, embed_dim: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
        width = config.width
        init = normal(width**-0.5)
        self.config = config
        self.dtype = dtype
        self.patch_embed = PatchEmbed(config.patch_size, width, rngs=rngs)
        self.class_token = nnx.Param(init(rngs.params(), (width,), jnp.float32))
        self.positions = nnx.Param(init(rngs.params(), (1 + config.grid**2, width), jnp.float32))
        eps = config.norm_eps
        self.norm_pre = LayerNorm(width, eps=eps)
        self.blocks = nnx.List(
            Block(width, config.heads, rngs=rngs, activation=config.activation, eps=eps)
            for _ in range(config.layers)
        )
        self.norm_post = LayerNorm(width, eps=eps)
        self.projection = nnx.Param(init(rngs.params(), (width, embed_dim), jnp.float32))

    def grid(self, image: jax.Array) -> tuple[int, int]:
        """Rows and columns of patches of an image [B, H, W, 3]."""
        return image.shape[1] // self.config.patch_size, image.shape[2] // self.config.patch_size

    def embed(
        self,
        image: jax.Array,
        *,
        class_token: jax.Array | None = None,
        **resizing,
    ) -> jax.Array:
        """The tokens that enter the first block.

        Args:
          image: normalised, [B, H, W, 3].
          class_token: [D], in place of the model's own.
          **resizing: how positions are resized, see `resize_positions`.

        Returns:
          [B, 1 + N, D] of the compute type, the class token first, patches row-major.
        """
        patches = self.patch_embed(image.astype(self.dtype))  # [B, h, w, D]
        b, h, w, d = patches.shape
        positions = resize_positions(self.positions[...], (h, w), **resizing)
        if class_token is None:
            class_token = self.class_token[...]
        first = jnp.broadcast_to(class_token.astype(self.dtype), (b, 1, d))
        tokens = jnp.concatenate([first, patches.reshape(b, h * w, d)], axis=1)
        return self.norm_pre(tokens + positions.astype(self.dtype))

    def encode(self, image: jax.Array, **resizing) -> jax.Array:
        """The tokens that leave the last block, [B, 1 + N, D]; arguments as `embed`."""
        tokens = self.embed(image, **resizing)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def project(self, tokens: jax.Array) -> jax.Array:
        """Last norm and projection on every token, [B, M, D] -> [B, M, E]."""
        return self.norm_post(tokens) @ self.projection[...].astype(tokens.dtype)

    def dense(self, image: jax.Array, **resizing) -> jax.Array:
        """Image [B, H, W, 3] -> a projected feature for each patch, [B, h, w, E]."""
        tokens = self.encode(image, **resizing)
        projected = self.project(tokens[:, 1:])  # [B, h·w, E]
        return projected.reshape(len(image), *self.grid(image), -1)

    def pool(self, projected: jax.Array) -> jax.Array:
        """The image feature from all projected tokens, [B, 1 + N, E] -> [B, E]."""
        if self.config.pool == "token":
            return projected[:, 0]
        return projected[:, 1:].mean(1)

    def pool_and_patches(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image [B, H, W, 3] -> its feature [B, E] and those of its patches [B, N, E]; one pass."""
        projected = self.project(self.encode(image))
        return self.pool(projected), projected[:, 1:]

    def __call__(self, image: jax.Array, *, train: bool = False, **resizing) -> jax.Array:
        """Image features, un-normalised.

        Args:
          image: normalised, [B, H, W, 3].
          train: as for every tower; nothing differs in this one.
          **resizing: see `embed`.

        Returns:
          [B, E].
        """
        tokens = self.encode(image, **resizing)
        if self.config.pool == "token":
            tokens = tokens[:, :1]
        return self.pool(self.project(tokens))


class TextTransformer(nnx.Module):
    """CLIP's causal text transformer; the feature is read at the largest token id."""

    def __init__(self, config: TextConfig, embed_dim: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
        width, layers = config.width, config.layers
        attention_std = width**-0.5
        init = BlockInit(
            qkv=normal(attention_std),
            out=normal(attention_std * (2 * layers) ** -0.5),
            fc1=normal((2 * width) ** -0.5),
            fc2=normal(attention_std * (2 * layers) ** -0.5),
        )
        self.config = config
        self.dtype = dtype
        self.token_embedding = nnx.Param(
            normal(0.02)(rngs.params(), (config.vocab_size, width), jnp.float32)
        )
        self.positions = nnx.Param(
            normal(0.01)(rngs.params(), (config.context, width), jnp.float32)
        )
        self.blocks = nnx.List(
            Block(width, config.heads, rngs=rngs, activation=config.activation, init=init)
            for _ in range(layers)
        )
        self.norm = LayerNorm(width)
        self.projection = nnx.Param(
            normal(width**-0.5)(rngs.params(), (width, embed_dim), jnp.float32)
        )

    def look_up(self, tokens: jax.Array) -> jax.Array:
        """Token ids [n, L] -> their embeddings [n, L, D] of the compute type."""
        return self.token_embedding[...].astype(self.dtype)[tokens]

    def place(self, embedded: jax.Array) -> jax.Array:
        """Adds positions to embedded tokens [n, L, D] (L <= context)."""
        length = embedded.shape[1]
        if length > self.config.context:
            raise ValueError(f"{length} tokens do not fit in a context of {self.config.context}")
        return embedded + self.positions[...][:length].astype(self.dtype)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Token ids [n, L] (L <= context) -> [n, L, D] of the compute type."""
        return self.place(self.look_up(tokens))

    def encode(self, x: jax.Array, end: jax.Array) -> jax.Array:
        """Placed embeddings [n, L, D] -> features [n, E] at the positions `end` int [n]."""
        for block in self.blocks:
            x = block(x, causal=True)
        last = jnp.take_along_axis(self.norm(x), end[:, None, None], axis=1)[:, 0]  # [n, D]
        return last @ self.projection[...].astype(x.dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Token ids int [n, L] -> text features [n, E], un-normalised.

        They are read at the end token, which has the largest id.
        """
        return self.encode(self.embed(tokens), tokens.argmax(-1))


class CLIP(nnx.Module):
    """The two towers and the scale of their similarity."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.image = config.image.build(config.embed_dim, rngs=rngs, dtype=dtype)
        self.text = TextTransformer(config.text, config.embed_dim, rngs=rngs, dtype=dtype)
        self.logit_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), jnp.float32))

    def encode_image(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalised image [B, H, W, 3] -> features [B, E], not of unit length."""
        return self.image(image, train=train)

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """Token ids [n, L] -> features [n, E], not of unit length."""
        return self.text(tokens)

    def __call__(self, image: jax.Array, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Scaled cosine similarities, float32 [B, n]."""
        image = normalize(self.encode_image(image, train=train))
        text = normalize(self.encode_text(tokens))
        return jnp.exp(self.logit_scale[...]) * (image @ text.T)


def normalize(x: jax.Array) -> jax.Array:
    """Divides by the L2 norm over the last axis, in float32 and, like CLIP, without an epsilon."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def encode_prompts(text: Callable[[jax.Array], jax.Array], tokens: jax.Array) -> jax.Array:
    """Class embeddings from several prompts each: every prompt to unit length, mean, unit length.

    Args:
      text: ids [n, L] -> features [n, E]: the text tower, or one with learned prompts.
      tokens: ids [n, P, L].

    Returns:
      float32 [n, E] of unit length.
    """
    n, prompts, length = tokens.shape
    features = normalize(text(tokens.reshape(n * prompts, length)))
    return normalize(features.reshape(n, prompts, -1).mean(1))
