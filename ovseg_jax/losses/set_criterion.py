"""The loss of mask classification: queries against their matched targets, in every decoder layer.

MaskFormer (Cheng et al., 2021): weighted cross-entropy of all queries, focal and dice loss of the
matched ones at the resolution of the targets. One decoder layer and one target of every image are
upsampled, compared and forgotten at a time, and the gradient by the small masks is formed in the
same pass, so memory does not grow with pairs × pixels and nothing of full resolution is kept for
the backward pass. The pass ends with the last matched target of the batch: padding costs nothing.
"""

import jax
import jax.numpy as jnp

from ovseg_jax.losses.dice import dice_from_sums
from ovseg_jax.losses.matching import TermWeights, match
from ovseg_jax.losses.pixel_sums import pixel_sums

TERMS = ("loss_ce", "loss_mask", "loss_dice")


def query_classes(matches: jax.Array, classes: jax.Array, queries: int) -> jax.Array:
    """The class of the target of each query.

    Args:
      matches: int32 [..., B, K], the query of each target or -1.
      classes: int32 [B, K].
      queries: Q.

    Returns:
      int32 [..., B, Q], -1 for queries without a target.
    """
    chosen = matches[..., None] == jnp.arange(queries)  # [..., B, K, Q]
    return jnp.where(chosen, classes[..., None], -1).max(-2)


def class_losses(logits: jax.Array, classes: jax.Array, no_object_weight: float) -> jax.Array:
    """Weighted mean of the cross-entropy over all queries of a layer.

    Args:
      logits: float [L, B, Q, C + 1], the last for "no object".
      classes: int32 [L, B, Q], -1 = no object.
      no_object_weight: weight of queries without a target, against 1 of the others; with 0 they
        are ignored.

    Returns:
      float32 [L]; 0 where no query counts.
    """
    weight = jnp.where(classes >= 0, 1.0, no_object_weight)
    targets = jnp.where(classes >= 0, classes, logits.shape[-1] - 1)
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    surprise = -jnp.take_along_axis(log_probability, targets[..., None], axis=-1)[..., 0]
    total = weight.sum((1, 2))
    return (weight * surprise).sum((1, 2)) / jnp.where(total > 0, total, 1.0)


def _focal_and_dice(
    logits: jax.Array, target: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Losses of one mask of each image, [B, h, w] against [B, H, W] -> [B] and [B]."""
    focal, overlap, predicted = pixel_sums(logits, target, valid)
    present = target.sum((1, 2), dtype=jnp.float32)
    if valid is None:
        pixels = target.shape[1] * target.shape[2]
    else:
        pixels = jnp.maximum(valid.sum((1, 2)), 1.0)
    return focal / pixels, dice_from_sums(overlap, predicted, present)


@jax.custom_vjp
def _pair_losses(mask_logits, matches, masks, scale, valid):
    """Focal and dice loss summed over the matched pairs of one decoder layer.

    Only the first result has a gradient, of which the pass over the pixels leaves a single array.

    Args:
      mask_logits: float32 [B, Q, h, w].
      matches: int32 [B, K], the query of each target or -1.
      masks: bool [B, K, H, W].
      scale: float32 [2], factors of the two sums.
      valid: float32 [B, H, W], 0 where pixels do not count; None = all do.

    Returns:
      The scaled sum of both, and float32 [2], the unscaled sums.
    """
    return _pair_losses_forward(mask_logits, matches, masks, scale, valid)[0]


def _pair_losses_forward(mask_logits, matches, masks, scale, valid):
    slots = jnp.where(matches >= 0, jnp.arange(1, matches.shape[1] + 1), 0).max()

    def add_target(slot, carry):
        sums, gradient = carry
        query = jax.lax.dynamic_index_in_dim(matches, slot, 1, keepdims=False)  # [B]
        target = jax.lax.dynamic_index_in_dim(masks, slot, 1, keepdims=False)  # [B, H, W]
        logits = jax.vmap(lambda maps, index: maps[index])(mask_logits, query)  # [B, h, w]
        losses, to_logits = jax.vjp(lambda maps: _focal_and_dice(maps, target, valid), logits)
        matched = query >= 0
        (slope,) = to_logits(tuple(jnp.where(matched, factor, 0.0) for factor in scale))
        gradient = jax.vmap(lambda maps, index, s: maps.at[index].add(s))(gradient, query, slope)
        return sums + jnp.where(matched, jnp.stack(losses), 0.0), gradient

    # Sums of each image: to add over images in the loop would be a message between devices a time.
    zeros = (jnp.zeros((2, len(matches))), jnp.zeros_like(mask_logits))
    sums, gradient = jax.lax.fori_loop(0, slots, add_target, zeros)
    sums = sums.sum(1)
    return ((scale * sums).sum(), sums), gradient


def _pair_losses_backward(gradient, cotangents):
    return cotangents[0] * gradient, None, None, None, None


_pair_losses.defvjp(_pair_losses_forward, _pair_losses_backward)


def set_losses(
    class_logits: jax.Array,
    mask_logits: jax.Array,
    classes: jax.Array,
    masks: jax.Array,
    *,
    weights: TermWeights,
    no_object_weight: float,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Matches every layer and sums its losses.

    Mask and dice loss are sums over matched pairs divided by the number of targets of the batch
    (at least 1), the cross-entropy is normalised by its own weights. Under `jit` with a sharded
    batch both count the whole batch. Pixels without a class are negatives of every mask, unless
    `valid` leaves them out.

    Args:
      class_logits: float [L, B, Q, C + 1], of L decoder layers, the final one last; the last class
        is "no object". Classes that do not exist (padding) have -inf.
      mask_logits: float [L, B, Q, h, w], resized bilinearly to the size of the masks.
      classes: int32 [B, K], index of the class of each target; targets first, then padding of -1.
      masks: bool [B, K, H, W], at the size of the padded input.
      weights: of the terms, in the matching and in the loss.
      no_object_weight: weight of queries without a target in the cross-entropy; 0 ignores them.
      valid: bool [B, H, W], False where pixels do not count, which are in no mask; None = all do.

    Returns:
      The total, and the unweighted terms for the log (without gradient): `loss_ce`, `loss_mask`,
      `loss_dice` of the final layer, `loss_ce_0`, … of the others.
    """
    matches = match(class_logits, mask_logits, classes, masks, weights, valid)
    labels = query_classes(matches, classes, mask_logits.shape[2])
    label = class_losses(class_logits, labels, no_object_weight)  # [L]
    targets = jnp.maximum((classes >= 0).sum(), 1).astype(jnp.float32)
    scale = jnp.array([weights.mask, weights.dice]) / targets
    valid = None if valid is None else valid.astype(jnp.float32)

    def layer_losses(layer):
        logits, pairs = layer
        return _pair_losses(logits.astype(jnp.float32), pairs, masks, scale, valid)

    weighted, sums = jax.lax.map(layer_losses, (mask_logits, matches))  # [L], [L, 2]
    terms = jax.lax.stop_gradient((label, *(sums / targets).T))
    suffixes = [f"_{layer}" for layer in range(len(mask_logits) - 1)] + [""]
    scalars = {
        name + suffix: values[layer]
        for name, values in zip(TERMS, terms, strict=True)
        for layer, suffix in enumerate(suffixes)
    }
    return weights.label * label.sum() + weighted.sum(), scalars
