"""The vision transformers of DINO and DINOv2, for dense features.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021. Oquab et
al., "DINOv2: Learning Robust Visual Features without Supervision", 2023. Darcet et al., "Vision
Transformers Need Registers", ICLR 2024.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.clip import PatchEmbed
from ovseg_jax.networks.layers import Block, LayerNorm, normal
from ovseg_jax.networks.positions import resize_positions

NORM_EPS = 1e-6
_OFFSET = 0.1  # see `resize_positions`
_INITIAL_SCALE = 1e-5  # of the branches of a fresh DINOv2


@dataclasses.dataclass(frozen=True)
class DinoConfig:
    """Sizes of a DINO transformer; the defaults are those of DINO ViT-B/8."""

    image_size: int = 224  # pixels that the position table stands for; 518 in DINOv2
    patch_size: int = 8
    width: int = 768
    layers: int = 12
    heads: int = 12
    layer_scale: bool = False  # DINOv2: the branches of a block are scaled per channel
    registers: int = 0  # tokens that the model may use as it likes; 4 in DINOv2's later weights

    @property
    def grid(self) -> int:
        """Side of the patch grid that the position table stands for."""
        return self.image_size // self.patch_size

    def build(self, *, rngs: nnx.Rngs, dtype=jnp.float32) -> "DinoTransformer":
        """The network of this configuration."""
        return DinoTransformer(self, rngs=rngs, dtype=dtype)


DINO_SIZES = {
    "DINO ViT-S/16": DinoConfig(patch_size=16, width=384, heads=6),
    "DINO ViT-S/8": DinoConfig(width=384, heads=6),
    "DINO ViT-B/16": DinoConfig(patch_size=16),
    "DINO ViT-B/8": DinoConfig(),
    "DINOv2 ViT-S/14": DinoConfig(518, 14, width=384, heads=6, layer_scale=True, registers=4),
    "DINOv2 ViT-B/14": DinoConfig(518, 14, layer_scale=True, registers=4),
    "DINOv2 ViT-L/14": DinoConfig(518, 14, 1024, 24, 16, layer_scale=True, registers=4),
}


class ScaledBlock(Block):
    """A pre-norm block whose two branches are scaled per channel."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs, eps: float = 1e-5):
        super().__init__(dim, heads, rngs=rngs, eps=eps)
        self.scale1 = nnx.Param(jnp.full((dim,), _INITIAL_SCALE, jnp.float32))
        self.scale2 = nnx.Param(jnp.full((dim,), _INITIAL_SCALE, jnp.float32))

    def __call__(self, x: jax.Array, *, causal: bool = False) -> jax.Array:
        """Tokens [B, N, D] -> [B, N, D]."""
        attended = self.attention(self.norm1(x), causal=causal)
        x = x + self.scale1[...].astype(x.dtype) * attended
        return x + self.scale2[...].astype(x.dtype) * self.mlp(self.norm2(x))


class DinoTransformer(nnx.Module):
    """A DINO transformer without its projection head."""

    def __init__(self, config: DinoConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        width = config.width
        init = normal(0.02)
        block = ScaledBlock if config.layer_scale else Block
        self.config = config
        self.dtype = dtype
        self.patch_embed = PatchEmbed(config.patch_size, width, rngs=rngs, bias=True)
        self.class_token = nnx.Param(init(rngs.params(), (width,), jnp.float32))
        self.registers = (
            nnx.Param(init(rngs.params(), (config.registers, width), jnp.float32))
            if config.registers
            else None
        )
        self.positions = nnx.Param(init(rngs.params(), (1 + config.grid**2, width), jnp.float32))
        self.blocks = nnx.List(
            block(width, config.heads, rngs=rngs, eps=NORM_EPS) for _ in range(config.layers)
        )
        self.norm = LayerNorm(width, eps=NORM_EPS)

    def embed(self, image: jax.Array) -> jax.Array:
        """Image [B, H, W, 3] -> tokens [B, 1 + R + N, D]: class, registers, patches row-major."""
        patches = self.patch_embed(image.astype(self.dtype))  # [B, h, w, D]
        b, h, w, d = patches.shape
        positions = self._positions((h, w), square=image.shape[1] == image.shape[2])
        first = jnp.broadcast_to(self.class_token[...].astype(self.dtype), (b, 1, d))
        tokens = jnp.concatenate([first, patches.reshape(b, h * w, d)], axis=1)
        tokens = tokens + positions.astype(self.dtype)
        if self.registers is None:
            return tokens
        # Registers have no place, so they come in after the positions.
        registers = self.registers[...].astype(self.dtype)
        registers = jnp.broadcast_to(registers, (b, *registers.shape))
        return jnp.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)

    def _positions(self, grid: tuple[int, int], square: bool) -> jax.Array:
        table = self.positions[...]
        if self.registers is not None:  # these weights were trained without the offset
            return resize_positions(table, grid, antialias=True)
        same = grid[0] * grid[1] == self.config.grid**2
        return resize_positions(table, grid, offset=_OFFSET, keep=same and square)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Normalised image [B, H, W, 3] -> features of the patches [B, H // p, W // p, D]."""
        tokens = self.embed(image)
        for block in self.blocks:
            tokens = block(tokens)
        first = 1 + self.config.registers
        patches = self.norm(tokens[:, first:])
        grid = (n // self.config.patch_size for n in image.shape[1:3])
        return patches.reshape(len(image), *grid, -1)
