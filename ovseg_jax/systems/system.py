"""What the loops ask of a system; CONTRIBUTING.md tells how each system answers."""

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError, nearest
from ovseg_jax.ops.mixture import Mixture
from ovseg_jax.ops.resize import resize, resize_traced
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import ParamGroup


class NamedMasks(NamedTuple):
    """Masks of whole regions, each with the name that fits best.

    Attributes:
      masks: probabilities, float32 [B, Q, h, w], of pixels that may be larger than the picture's.
      rows: of the vocabulary, int32 [B, Q].
      scores: of these names, float32 [B, Q].
    """

    masks: jax.Array
    rows: jax.Array
    scores: jax.Array


class System(nnx.Module):
    """A model that gives every pixel a score for every name."""

    @property
    def independent_names(self) -> bool:
        """Whether the scores of a name are the same whichever other names stand beside it."""
        return True

    @property
    def scores_are_probabilities(self) -> bool:
        """Whether a score is the probability of its name alone, and not one side of a softmax."""
        return False

    @property
    def text_trains(self) -> bool:
        """Whether the embeddings of names change in training: `loss` encodes their tokens."""
        return False

    @property
    def proposes_masks(self) -> bool:
        """Whether pixels get their names by way of masks, which `proposals` tells."""
        return False

    @property
    def patch_size(self) -> int:
        """Pixels from one of `dense_features` to the next."""
        raise NotImplementedError(f"{type(self).__name__}.patch_size")

    def encode_vocabulary(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [n, P, L], P prompts per name -> embeddings float32 [n, D]."""
        raise NotImplementedError(f"{type(self).__name__}.encode_vocabulary")

    def loss(
        self, batch: dict[str, jax.Array], vocabulary: Vocabulary | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """A scalar and further scalars for the log; `rngs` of None is deterministic."""
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def param_groups(self) -> tuple[ParamGroup, ...]:
        """What trains, and how fast: the first rule that matches counts; without one, frozen."""
        raise NotImplementedError(f"{type(self).__name__}.param_groups")

    @property
    def idle(self) -> tuple[str, ...]:
        """What the paths of frozen parameters begin with that no score depends on."""
        return ()

    def classify(self, batch: dict[str, jax.Array], vocabulary: Vocabulary) -> jax.Array:
        """Logits float32 [B, N] of one region per picture, for systems that name regions."""
        raise NotImplementedError(f"{type(self).__name__}.classify")

    def encode(self, image: jax.Array, sizes: jax.Array | None = None) -> Any:
        """What pictures give without names.

        Args:
            image: float32 [B, H, W, 3], normalised, zero beyond the pictures.
            sizes: int32 [B, 2], how much of each is picture; None = all of it. Most networks take
                the padding for a part of the picture.

        Returns:
            A tree of arrays [B, ...].
        """
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def decode(
        self,
        features: Any,
        vocabulary: Vocabulary,
        shape: tuple[int, int],
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        """Scores of every pixel and name; those of a `mixture` if the system has one.

        Args:
            features: what `encode` gave.
            vocabulary: N rows, one per query: synonyms are several.
            shape: height and width of the pictures.
            sizes: int32 [B, 2], how much of each is picture, where `Protocol.patch` is above 1;
                all of it if absent.

        Returns:
            float32 [B, *shape, N]; rows of padding are arbitrary.
        """
        mixture = self.mixture(features, vocabulary, shape, sizes)
        if mixture is None:
            raise NotImplementedError(f"{type(self).__name__}.decode")
        return mixture.scores()

    def mixture(
        self,
        features: Any,
        vocabulary: Vocabulary,
        shape: tuple[int, int],
        sizes: jax.Array | None = None,
    ) -> Mixture | None:
        """What `decode` adds up, where scores are sums of maps; arguments as there.

        Pictures that are taken whole return to their size as these maps: fewer than the names,
        and linear until the sum.
        """
        return None

    def proposals(self, features: Any, vocabulary: Vocabulary) -> NamedMasks:
        """The masks that `encode` proposed and their names, where `proposes_masks`."""
        raise NotImplementedError(f"{type(self).__name__}.proposals")

    def dense_features(self, features: Any, shape: tuple[int, int]) -> jax.Array:
        """Patch features of unit length in the space of the names: `encode`'s -> [B, h, w, E]."""
        raise NotImplementedError(f"{type(self).__name__}.dense_features")

    def predict(self, image: jax.Array, vocabulary: Vocabulary) -> jax.Array:
        """Both steps: normalised pictures float32 [B, H, W, 3] -> scores [B, H, W, N]."""
        return self.decode(self.encode(image), vocabulary, image.shape[1:3])


def read_settings(
    config: ConfigDict, settings: type, parts: Collection[str] = ("name", "clip")
) -> dict[str, Any]:
    """The fields of `config.system` that are plain settings, by name.

    Args:
        config: of the run.
        settings: dataclass of the system's settings.
        parts: fields that are read apart.

    Raises:
        UserError: a field that the dataclass lacks; names the nearest.
    """
    fields = {key: value for key, value in config.system.items() if key not in parts}
    known = [field.name for field in dataclasses.fields(settings)]
    for field in fields:
        if field not in known:
            raise UserError(
                f"{config.system.name} has no field config.system.{field}; {nearest(field, known)}"
            )
    return fields


def read_part(config: ConfigDict, name: str, sizes: type, **others: Any) -> Any:
    """A part of `config.system` as the dataclass of its sizes.

    Args:
        config: of the run.
        name: dotted, of the section below `config.system`.
        sizes: the dataclass.
        **others: fields that do not stand in the section.

    Raises:
        UserError: a field that the dataclass lacks, or values that it refuses.
    """
    section = config.system
    for key in name.split("."):
        section = section[key]
    try:
        return sizes(**section, **others)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.system.{name} does not fit the network ({error}).") from error


def spread(scores: jax.Array, shape: tuple[int, int], sizes: jax.Array | None = None) -> jax.Array:
    """Bilinear from the patches [B, h, w, N] to the pixels [B, *shape, N].

    With `sizes` int32 [B, 2] the patches are spread over that much of each picture; they must be
    as many as if it ended there.
    """
    if sizes is None:
        return resize(scores, shape)
    grids = jnp.broadcast_to(jnp.asarray(scores.shape[1:3]), sizes.shape)
    return resize_traced(scores, grids, sizes, shape)
