"""What inference and training ask of a system; CONTRIBUTING.md tells how each system answers."""

from typing import Any

import jax
from flax import nnx

from ovseg_jax.text.vocabulary import Vocabulary


class System(nnx.Module):
    """A model that gives every pixel a score for every name.

    A system further has `encode_vocabulary`, `loss` and `param_groups`.
    """

    @property
    def independent_names(self) -> bool:
        """Whether the scores of a name are the same whichever other names stand beside it."""
        return True

    @property
    def scores_are_probabilities(self) -> bool:
        """Whether a score is the probability of its name alone, and not one side of a softmax."""
        return False

    def encode(self, image: jax.Array) -> Any:
        """What pictures give without names, float32 [B, H, W, 3] -> a tree of arrays [B, ...]."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def decode(self, features: Any, vocabulary: Vocabulary, shape: tuple[int, int]) -> jax.Array:
        """Scores of every pixel and name.

        Args:
            features: what `encode` gave.
            vocabulary: N rows, one per query: synonyms are several.
            shape: height and width of the pictures.

        Returns:
            float32 [B, H, W, N]; rows of padding are arbitrary.
        """
        raise NotImplementedError(f"{type(self).__name__}.decode")

    def dense_features(self, features: Any, shape: tuple[int, int]) -> jax.Array:
        """Patch features of unit length in the space of the names: `encode`'s -> [B, h, w, E]."""
        raise NotImplementedError(f"{type(self).__name__}.dense_features")

    def predict(self, image: jax.Array, vocabulary: Vocabulary) -> jax.Array:
        """Both steps: normalised pictures float32 [B, H, W, 3] -> scores [B, H, W, N]."""
        return self.decode(self.encode(image), vocabulary, image.shape[1:3])
