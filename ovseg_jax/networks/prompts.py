"""Learned context around the names that CLIP's text transformer reads.

Zhou et al., "Learning to Prompt for Vision-Language Models", 2022; in the form of zsseg (Xu et al.,
"A Simple Baseline for Open-Vocabulary Semantic Segmentation", ECCV 2022), one context for all names
and a full stop at the end.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ovseg_jax.networks.clip import TextTransformer
from ovseg_jax.networks.layers import normal

FULL_STOP = 269  # id of '.' at the end of a word in CLIP's vocabulary


class LearnedPrompt(nnx.Module):
    """Vectors in place of the words before and after a name."""

    def __init__(
        self, prefix: int, suffix: int, width: int, *, rngs: nnx.Rngs, full_stop: int = FULL_STOP
    ):
        """Starts from N(0, 0.02).

        Args:
          prefix: vectors before the name; 0 = none.
          suffix: vectors behind it.
          width: of the text transformer.
          rngs: for the initial vectors.
          full_stop: token id that ends every prompt.
        """
        self.prefix, self.suffix = (
            nnx.Param(normal(0.02)(rngs.params(), (count, width), jnp.float32)) if count else None
            for count in (prefix, suffix)
        )
        self.counts = prefix, suffix
        self.full_stop = full_stop

    def embed(self, text: TextTransformer, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Puts prompts together: start, prefix, name, suffix, full stop, end, padding.

        Args:
          text: whose token embeddings are taken.
          tokens: ids of bare names, int [n, L]: start, name, end, zeros. A name that leaves no room
            for the prompt in the context is cut.

        Returns:
          Embeddings [n, L', D] without positions, L' = L and the prompt but at most the context,
          and the positions of the end token, int32 [n].
        """
        before, after = self.counts
        length = min(text.config.context, tokens.shape[1] + before + after + 1)
        name = jnp.minimum(tokens.argmax(-1) - 1, length - before - after - 3)[:, None]  # [n, 1]
        stop = 1 + before + name + after
        place = jnp.broadcast_to(jnp.arange(length), (len(tokens), length))
        ids = jnp.take_along_axis(tokens, jnp.clip(place - before, 0, tokens.shape[1] - 1), axis=1)
        ids = jnp.where(place == stop, self.full_stop, ids)
        ids = jnp.where(place == stop + 1, tokens.max(-1, keepdims=True), ids)
        embedded = text.look_up(jnp.where(place > stop + 1, 0, ids))  # [n, L', D]
        if before:
            embedded = embedded.at[:, 1 : 1 + before].set(self.prefix[...].astype(embedded.dtype))
        if after:
            behind = place - (stop - after)
            vectors = self.suffix[...].astype(embedded.dtype)[jnp.clip(behind, 0, after - 1)]
            inside = (behind >= 0) & (behind < after)
            embedded = jnp.where(inside[..., None], vectors, embedded)
        return embedded, stop[:, 0] + 1

    def encode(self, text: TextTransformer, tokens: jax.Array) -> jax.Array:
        """Features [n, E] of names int [n, L] in their prompts, un-normalised."""
        embedded, end = self.embed(text, tokens)
        return text.encode(text.place(embedded), end)
