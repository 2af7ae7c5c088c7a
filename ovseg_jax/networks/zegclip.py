"""ZegCLIP's trainable parts: deep visual prompts and the relationship-descriptor decoder.

Zhou et al., "ZegCLIP: Towards Adapting CLIP for Zero-shot Semantic Segmentation", CVPR 2023.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.clip import VisionTransformer, normalize
from ovseg_jax.networks.layers import (
    Attention,
    LayerNorm,
    Linear,
    Mlp,
    attention_scores,
    dropout,
    merge_heads,
    normal,
    split_heads,
)


class DeepPrompts(nnx.Module):
    """Learned tokens between the class token and the patches of an image transformer.

    With `depth` 0 the prompts enter before the first block and stay to the end. With `depth` d the
    outputs of the prompts are replaced by fresh ones before blocks 1 … d, and the prompts are
    removed before block d + 1 where there is one (section 3.2 of the paper; d = 11 of 12).
    """

    def __init__(self, tokens: int, width: int, depth: int, patch_size: int, *, rngs: nnx.Rngs):
        if depth < 0:
            raise ValueError(f"prompts of depth {depth}; the smallest is 0 (first block only)")
        bound = math.sqrt(6.0 / (3 * patch_size**2 + width))

        def init(*shape):
            return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

        self.embeddings = init(tokens, width)
        self.deep_embeddings = init(depth, tokens, width) if depth else None
        # Kaiming with fan-out.
        self.projection = Linear(width, width, rngs=rngs, kernel_init=normal(math.sqrt(2 / width)))
        self.norm = LayerNorm(width, eps=1e-6)
        self.tokens = tokens
        self.depth = depth

    def __call__(self, layer: int, batch: int, dtype, rate: float, rngs) -> jax.Array:
        """The prompts that enter block `layer` (0 … depth), [batch, P, D], dropout per image."""
        raw = self.embeddings[...] if layer == 0 else self.deep_embeddings[...][layer - 1]
        prompts = self.projection(raw.astype(dtype))
        return dropout(jnp.broadcast_to(prompts, (batch, *prompts.shape)), rate, rngs)


def prompted_features(
    vit: VisionTransformer,
    prompts: DeepPrompts,
    image: jax.Array,
    *,
    dropout_rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Runs an image transformer with prompts.

    Args:
      vit: CLIP's image transformer.
      prompts: the prompt tokens.
      image: normalised, [B, H, W, 3].
      dropout_rate: on the projected prompts.
      rngs: None = no dropout.

    Returns:
      The image's embedding [B, E] (the class token's in published CLIPs) and the patch embeddings
      [B, N, E], float32 of unit length, and the tokens on the way: `embedded`, `block_in_0`,
      `block_0`, `block_1`, …
    """
    # The published model adds the class token twice: once as a token and once with its position.
    tokens = vit.embed(image, class_token=2.0 * vit.class_token[...], method="bilinear")
    trace = {"embedded": tokens}
    batch, patches = tokens.shape[0], tokens.shape[1] - 1
    for i, block in enumerate(vit.blocks):
        if i <= prompts.depth:
            fresh = prompts(i, batch, tokens.dtype, dropout_rate, rngs)
            tokens = jnp.concatenate([tokens[:, :1], fresh, tokens[:, -patches:]], axis=1)
        elif prompts.depth:
            tokens = jnp.concatenate([tokens[:, :1], tokens[:, -patches:]], axis=1)
        if i == 0:
            trace["block_in_0"] = tokens
        tokens = block(tokens)
        trace[f"block_{i}"] = tokens
    tokens = jnp.concatenate([tokens[:, :1], tokens[:, -patches:]], axis=1)  # [B, 1 + N, D]
    if prompts.depth:
        tokens = prompts.norm(tokens)
    projected = vit.project(tokens)
    return normalize(vit.pool(projected)), normalize(projected[:, 1:]), trace


class CrossAttention(nnx.Module):
    """Multi-head cross-attention that also returns its scores, averaged over the heads."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.query = Linear(dim, dim, rngs=rngs)
        self.key = Linear(dim, dim, rngs=rngs)
        self.value = Linear(dim, dim, rngs=rngs)
        self.out = Linear(dim, dim, rngs=rngs)
        self.heads = heads

    def __call__(
        self, queries: jax.Array, memory: jax.Array, rate: float, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Queries [B, C, D] and memory [B, N, D] -> [B, C, D] and pre-softmax scores [B, C, N]."""
        q = split_heads(self.query(queries), self.heads)
        k = split_heads(self.key(memory), self.heads)
        v = split_heads(self.value(memory), self.heads)
        scores = attention_scores(q, k)  # [B, heads, C, N]
        weights = dropout(jax.nn.softmax(scores, axis=-1), rate, rngs)
        return self.out(merge_heads(weights.astype(v.dtype) @ v)), scores.mean(1)


class DecoderLayer(nnx.Module):
    """Post-norm cross-attention of class queries over patches.

    The self-attention and the first norm are part of the published checkpoints and take no part in
    the computation.
    """

    def __init__(self, dim: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.self_attention = Attention(dim, heads, rngs=rngs)
        self.norm1 = LayerNorm(dim)
        self.attention = CrossAttention(dim, heads, rngs=rngs)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, hidden, rngs=rngs, activation="relu")
        self.norm3 = LayerNorm(dim)

    def __call__(
        self, queries: jax.Array, memory: jax.Array, rate: float, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Queries [B, C, D] and memory [B, N, D] -> new queries and mask scores [B, C, N]."""
        attended, scores = self.attention(queries, memory, rate, rngs)
        queries = self.norm2(queries + dropout(attended, rate, rngs))
        updated = self.mlp(queries, rate, rngs)
        return self.norm3(queries + dropout(updated, rate, rngs)), scores


class RelationshipDecoder(nnx.Module):
    """Class queries from text and image, decoded into one mask per class (section 3.3)."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        layers: int,
        hidden: int,
        relationship_descriptor: bool,
        rngs: nnx.Rngs,
    ):
        inputs = 2 * dim if relationship_descriptor else dim
        self.query_projection = Linear(inputs, dim, rngs=rngs)
        # The published layers are copies of one layer and start identical.
        key = rngs.params()
        self.layers = nnx.List(
            DecoderLayer(dim, heads, hidden, rngs=nnx.Rngs(params=key)) for _ in range(layers)
        )
        self.relationship_descriptor = relationship_descriptor

    def __call__(
        self,
        text: jax.Array,
        cls: jax.Array,
        patches: jax.Array,
        *,
        dropout_rate: float = 0.0,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mask logits of every class and patch.

        Args:
          text: [C, E], one embedding per class.
          cls: [B, E], the class embedding of the image.
          patches: [B, N, E].
          dropout_rate: on attention weights, residual branches and the hidden layer.
          rngs: None = no dropout.

        Returns:
          float32 [B, C, N], and the values on the way: `query_input`, `query`, and per layer
          `scores_i` and `queries_i`.
        """
        shape = (cls.shape[0], *text.shape)
        descriptor = jnp.broadcast_to(text, shape)  # [B, C, E]
        if self.relationship_descriptor:
            descriptor = jnp.concatenate([cls[:, None] * descriptor, descriptor], axis=-1)
        queries = self.query_projection(descriptor)
        trace = {"query_input": descriptor, "query": queries}
        for i, layer in enumerate(self.layers):
            queries, scores = layer(queries, patches, dropout_rate, rngs)
            trace |= {f"scores_{i}": scores, f"queries_{i}": queries}
        return scores, trace
