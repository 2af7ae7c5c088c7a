"""The transformer of DETR: positions enter queries and keys of every layer, never the values.

Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, appendix A.3. Norms
stand behind the residual sums (post-norm) or, on request, before the branches (pre-norm).
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.layers import Attention, BlockInit, LayerNorm, Linear, Mlp, dropout

_XAVIER = jax.nn.initializers.xavier_uniform()
_INIT = BlockInit(out=_XAVIER, fc1=_XAVIER, fc2=_XAVIER)


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """Sizes of a layer."""

    dim: int = 256
    heads: int = 8
    hidden: int = 2048  # of the two-layer network
    pre_norm: bool = False
    dropout: float = 0.1  # on attention weights, branches and the hidden layer


def _attention(config: LayerConfig, rngs: nnx.Rngs) -> Attention:
    return Attention(config.dim, config.heads, rngs=rngs, init=_INIT)


class _Layer(nnx.Module):
    """What the layers of encoder and decoder share: the two orders of norm and branch."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.attention = _attention(config, rngs)
        self.norm1 = LayerNorm(config.dim)
        self.norm2 = LayerNorm(config.dim)
        self.mlp = Mlp(config.dim, config.hidden, rngs=rngs, activation="relu", init=_INIT)

    def _attend(self, attention: Attention, queries, keys, values, rngs) -> jax.Array:
        return attention(queries, keys, values, dropout_rate=self.config.dropout, rngs=rngs)

    def _add(self, x: jax.Array, norm: LayerNorm, branch: Callable, rngs) -> jax.Array:
        """A branch and its residual connection."""
        y = branch(norm(x) if self.config.pre_norm else x)
        x = x + dropout(y, self.config.dropout, rngs)
        return x if self.config.pre_norm else norm(x)

    def _add_mlp(self, x: jax.Array, norm: LayerNorm, rngs) -> jax.Array:
        return self._add(x, norm, lambda y: self.mlp(y, self.config.dropout, rngs), rngs)


class EncoderLayer(_Layer):
    """Self-attention and a two-layer network."""

    def __call__(
        self, x: jax.Array, positions: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Tokens [B, N, D] with positions [N, D] -> [B, N, D]; `rngs` of None: no dropout."""

        def attend(y):
            placed = y + positions
            return self._attend(self.attention, placed, placed, y, rngs)

        return self._add_mlp(self._add(x, self.norm1, attend, rngs), self.norm2, rngs)


class DecoderLayer(_Layer):
    """Self-attention of the queries, cross-attention to a memory, and a two-layer network."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.cross_attention = _attention(config, rngs)
        self.norm3 = LayerNorm(config.dim)

    def __call__(
        self,
        x: jax.Array,
        queries: jax.Array,
        memory: jax.Array,
        positions: jax.Array,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """One step of the queries.

        Args:
          x: what the queries hold, [B, Q, D].
          queries: their learned positions, [Q, D].
          memory: tokens of the picture, [B, N, D].
          positions: of the memory, [N, D].
          rngs: for dropout; None = without.

        Returns:
          [B, Q, D].
        """

        def attend(y):
            placed = y + queries
            return self._attend(self.attention, placed, placed, y, rngs)

        def look(y):
            placed = y + queries
            return self._attend(self.cross_attention, placed, memory + positions, memory, rngs)

        x = self._add(x, self.norm1, attend, rngs)
        x = self._add(x, self.norm2, look, rngs)
        return self._add_mlp(x, self.norm3, rngs)


class Encoder(nnx.Module):
    """Layers over the tokens of a picture; behind pre-norm ones, even if none, stands a norm."""

    def __init__(self, config: LayerConfig, layers: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List(EncoderLayer(config, rngs=rngs) for _ in range(layers))
        self.norm = LayerNorm(config.dim) if config.pre_norm else None

    def __call__(
        self, x: jax.Array, positions: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """As `EncoderLayer`."""
        for layer in self.layers:
            x = layer(x, positions, rngs)
        return self.norm(x) if self.norm else x


class Decoder(nnx.Module):
    """Layers over learned queries, and one norm for the outputs of them all."""

    def __init__(self, config: LayerConfig, layers: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List(DecoderLayer(config, rngs=rngs) for _ in range(layers))
        self.norm = LayerNorm(config.dim)

    def __call__(
        self,
        queries: jax.Array,
        memory: jax.Array,
        positions: jax.Array,
        rngs: nnx.Rngs | None = None,
    ) -> list[jax.Array]:
        """What the queries hold after each layer, before the norm, [B, Q, D] each.

        They begin with zeros; arguments as in `DecoderLayer`.
        """
        x = jnp.zeros((len(memory), *queries.shape), memory.dtype)
        states = []
        for layer in self.layers:
            x = layer(x, queries, memory, positions, rngs)
            states.append(x)
        return states


class Perceptron(nnx.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden: int, out_dim: int, layers: int, *, rngs: nnx.Rngs):
        dims = (in_dim, *(hidden,) * (layers - 1), out_dim)
        self.layers = nnx.List(Linear(*pair, rngs=rngs) for pair in itertools.pairwise(dims))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., in] to [..., out]."""
        for layer in list(self.layers)[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)
