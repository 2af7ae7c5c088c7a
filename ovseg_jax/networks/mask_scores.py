"""From queries, their masks and names to scores of pixels: what zsseg does behind its networks.

Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation", ECCV 2022, section 3.
N names may be followed by padding, which `real` (bool [N]) tells apart; it gets no probability.
"""

import jax
import jax.numpy as jnp

from ovseg_jax.networks.clip import normalize

TEMPERATURE = 100.0  # a constant; CLIP's own scale is not used
# Accelerators would otherwise round what is multiplied to 8 or 11 bits: tenths of a logit.
_EXACT = jax.lax.Precision.HIGHEST


def with_no_object(names: jax.Array, no_object: jax.Array) -> jax.Array:
    """Appends the learned vector for no object, [1, E], to unit-length names: [N + 1, E]."""
    return jnp.concatenate([names, normalize(no_object)])


def cosine_logits(features: jax.Array, text: jax.Array) -> jax.Array:
    """Scaled cosines float32 [..., M] of features [..., E] and unit-length rows [M, E]."""
    return TEMPERATURE * jnp.matmul(normalize(features), text.T, precision=_EXACT)


def query_probabilities(logits: jax.Array, real: jax.Array) -> jax.Array:
    """Probabilities of the names, [..., N + 1] with no object last -> [..., N], summing below 1."""
    real = jnp.append(real, True)
    return jax.nn.softmax(jnp.where(real, logits, -jnp.inf), axis=-1)[..., :-1]


def region_probabilities(logits: jax.Array, valid: jax.Array, real: jax.Array) -> jax.Array:
    """Probabilities of regions, among the names alone.

    Args:
      logits: float32 [..., Q, N + 1], no object last, which does not compete.
      valid: bool [..., Q], whether a query has a region; the real names of the others get 1.
      real: bool [N].

    Returns:
      float32 [..., Q, N].
    """
    probabilities = jax.nn.softmax(jnp.where(real, logits[..., :-1], -jnp.inf), axis=-1)
    return jnp.where(real & ~valid[..., None], 1.0, probabilities)


def trained_on(seen: jax.Array, real: jax.Array) -> jax.Array:
    """Names that count as trained on in the ensemble, bool [N].

    Where no name is unseen none does: a vocabulary that tells nothing about training is another one
    than that of training.
    """
    return seen & (real & ~seen).any()


def ensemble(query: jax.Array, region: jax.Array, seen: jax.Array, weight: float) -> jax.Array:
    """Geometric mix that trusts queries for seen names and regions for the others.

    Args:
      query: float32 [..., N].
      region: float32 [..., N].
      seen: bool [N], names that were trained on.
      weight: exponent of the queries for seen names, and of the regions for the others.

    Returns:
      float32 [..., N]; sums are not 1.
    """
    exponent = jnp.where(seen, weight, 1.0 - weight)
    return query**exponent * region ** (1.0 - exponent)


def name_scores(
    query_logits: jax.Array,
    region_logits: jax.Array,
    valid: jax.Array,
    seen: jax.Array,
    real: jax.Array,
    weight: float,
) -> jax.Array:
    """Scores of queries by both logits.

    Args:
      query_logits: float32 [..., Q, N + 1], no object last.
      region_logits: float32 [..., Q, N + 1].
      valid: bool [..., Q], whether a query has a region.
      seen: bool [N].
      real: bool [N].
      weight: of the ensemble; not above 0: regions alone count, and queries without one not at all.

    Returns:
      float32 [..., Q, N]. Without an ensemble they are `query_probabilities`.
    """
    region = region_probabilities(region_logits, valid, real)
    if weight <= 0:
        return jnp.where(valid[..., None], region, 0.0)
    return ensemble(query_probabilities(query_logits, real), region, seen, weight)


def pseudo_labels(
    scores: jax.Array,
    label: jax.Array,
    seen: jax.Array,
    *,
    threshold: float = 0.0,
    prior: bool = True,
    ignore_label: int = 255,
) -> jax.Array:
    """Labels for self-training: the truth where a seen class stands, a prediction elsewhere.

    Args:
      scores: float32 [h, w, C] of all classes.
      label: int [h, w]; pixels of unseen classes may be `ignore_label`. Those of no class get a
        prediction, too.
      seen: bool [C].
      threshold: least probability; pixels below it are rejected.
      prior: whether seen classes are left out of the prediction; then a softmax over all classes is
        taken first. Otherwise scores are compared as they are.
      ignore_label: label of pixels without a class.

    Returns:
      int32 [h, w]; C where rejected.
    """
    count = scores.shape[-1]
    if prior:
        scores = jax.nn.softmax(scores, axis=-1) * ~seen
    predicted = jnp.where(scores.max(-1) < threshold, count, scores.argmax(-1))
    known = (label != ignore_label) & seen[jnp.minimum(label, count - 1)]
    return jnp.where(known, label, predicted).astype(jnp.int32)
