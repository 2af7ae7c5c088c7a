"""Which query answers for which target: bipartite matching by class, focal and dice cost.

Of DETR (Carion et al., 2020) in MaskFormer's form (Cheng et al., 2021, section 3.2 and appendix).
Costs are sums over the pixels of the small mask maps and so matrix products of queries × pixels
with pixels × targets; nothing is as large as queries × targets × pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ovseg_jax.losses.dice import dice_from_sums
from ovseg_jax.losses.pixel_sums import FOCAL_ALPHA, logistic
from ovseg_jax.ops.assignment import assign
from ovseg_jax.ops.resize import take_nearest


class TermWeights(NamedTuple):
    """Factors of the three terms, in the matching and in the loss."""

    label: float = 1.0
    mask: float = 20.0
    dice: float = 1.0


def _pixel_products(values: jax.Array, targets: jax.Array) -> jax.Array:
    """[..., Q, N] and [..., K, N] -> [..., Q, K]."""
    # The default precision of accelerators would decide between queries that are nearly as good.
    return jnp.einsum("...qn,...kn->...qk", values, targets, precision=jax.lax.Precision.HIGHEST)


def mask_costs(
    logits: jax.Array, targets: jax.Array, valid: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Focal and dice cost of every pair.

    Args:
      logits: float32 [..., Q, N], masks at N pixels.
      targets: float32 [..., K, N], 0 or 1.
      valid: float32 [..., N], 0 where pixels do not count, which are in no target; None = all do.

    Returns:
      The mean focal loss and the dice loss, each float32 [..., Q, K].
    """
    hit, miss, outside_ce = logistic(logits)
    inside = FOCAL_ALPHA * miss**2 * (outside_ce - logits)  # softplus(-x) = softplus(x) - x
    outside = (1.0 - FOCAL_ALPHA) * hit**2 * outside_ce
    pixels = logits.shape[-1]
    if valid is not None:
        hit, outside = (x * valid[..., None, :] for x in (hit, outside))
        pixels = jnp.maximum(valid.sum(-1), 1.0)[..., None, None]
    # A pixel adds `outside`, but `inside` where the target is: one product instead of two.
    focal = _pixel_products(inside - outside, targets) + outside.sum(-1)[..., None]
    overlap = _pixel_products(hit, targets)
    dice = dice_from_sums(overlap, hit.sum(-1)[..., None], targets.sum(-1)[..., None, :])
    return focal / pixels, dice


def class_cost(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Minus the probability of the target's class; [..., Q, C] and [..., K] -> [..., Q, K]."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    classes = jnp.maximum(classes, 0)[..., None, :]  # padding gets some cost that nobody reads
    return -jnp.take_along_axis(probabilities, classes, axis=-1)


def _layer_costs(
    class_logits, mask_logits, classes, targets, weights: TermWeights, valid
) -> jax.Array:
    """Costs of one decoder layer, [B, Q, K].

    From targets [B, K, h, w] and valid pixels [B, h, w] (or None) of the predictions' size.
    """
    maps = (mask_logits, targets) if valid is None else (mask_logits, targets, valid)
    pixels = (x.reshape(*x.shape[:-2], -1).astype(jnp.float32) for x in maps)
    focal, dice = mask_costs(*pixels)
    label = class_cost(class_logits.astype(jnp.float32), classes)
    return weights.mask * focal + weights.label * label + weights.dice * dice


def matching_costs(
    class_logits: jax.Array,
    mask_logits: jax.Array,
    classes: jax.Array,
    masks: jax.Array,
    weights: TermWeights,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Cost of every pair of a query and a target of the same image; no gradient.

    Arguments as of `match`. Targets are compared at the resolution of the predictions, resized to
    it by taking the nearest pixel.

    Returns:
      float32 [L, B, Q, K].
    """
    targets = take_nearest(masks, mask_logits.shape[-2:])
    if valid is not None:
        valid = take_nearest(valid, mask_logits.shape[-2:])
    logits = jax.lax.stop_gradient((class_logits, mask_logits))
    # One layer after the other: the pixels of all at once would take several times the memory.
    return jax.lax.map(lambda layer: _layer_costs(*layer, classes, targets, weights, valid), logits)


def assign_targets(costs: jax.Array, classes: jax.Array) -> jax.Array:
    """Solves the assignment problems of all layers and images together, [L, B, Q, K] -> [L, B, K].

    Classes and result as of `match`.
    """
    counts = (classes >= 0).sum(-1, dtype=jnp.int32)
    return jax.vmap(jax.vmap(assign), in_axes=(0, None))(costs, counts)


def match(
    class_logits: jax.Array,
    mask_logits: jax.Array,
    classes: jax.Array,
    masks: jax.Array,
    weights: TermWeights,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Matches targets with queries at least total cost, for every layer and image; no gradient.

    Args:
      class_logits: float [L, B, Q, C + 1], of L decoder layers; the last class is "no object".
      mask_logits: float [L, B, Q, h, w].
      classes: int32 [B, K], index of the class of each target; targets first, then padding of -1.
      masks: bool [B, K, H, W].
      weights: of the terms.
      valid: bool [B, H, W], False where pixels do not count, which are in no mask; None = all do.

    Returns:
      int32 [L, B, K], the query of each target; -1 for padding and where targets outnumber
      queries.
    """
    costs = matching_costs(class_logits, mask_logits, classes, masks, weights, valid)
    return assign_targets(costs, classes)
