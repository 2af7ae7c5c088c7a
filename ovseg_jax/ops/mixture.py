"""Scores of pixels as sums of a few maps, for what is linear in the maps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mixture(NamedTuple):
    """Maps that every name weighs in its own way.

    Where names outnumber maps, resizing the maps and adding them up afterwards is less work than
    resizing the scores.

    Attributes:
      maps: float32 [B, h, w, Q].
      weights: float32 [B, Q, N].
    """

    maps: jax.Array
    weights: jax.Array

    def apart(self) -> "Mixture":
        """One whose scores are the maps themselves."""
        batch, count = self.weights.shape[:2]
        return self._replace(weights=jnp.broadcast_to(jnp.eye(count), (batch, count, count)))

    def scores(self) -> jax.Array:
        """The sums, float32 [B, h, w, N]."""
        return jnp.einsum(
            "bhwq,bqn->bhwn", self.maps, self.weights, precision=jax.lax.Precision.HIGHEST
        )
