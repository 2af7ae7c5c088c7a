"""Parity of MaskFormer's matching and criterion: costs, pairs, terms, gradients."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.losses.matching import TermWeights, class_cost, mask_costs, match
from ovseg_jax.losses.set_criterion import set_losses
from ovseg_jax.ops.resize import take_nearest
from ovseg_jax.parity.runner import Arrays, Quantity, exact, gradient, loss, output


def load_targets(
    arrays: Arrays, images: int, canvas: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Classes int32 [B, K] and masks bool [B, K, H, W], with padding beyond the largest count.

    Masks lie in the upper left corner of the canvas, whose size is by default that of the largest.
    """
    labels = [arrays[f"in/labels_{image}"] for image in range(images)]
    given = [arrays[f"in/masks_{image}"] for image in range(images)]
    if canvas is None:
        canvas = tuple(np.max([x.shape[1:] for x in given], axis=0))
    slots = max(map(len, labels)) + 1
    classes = np.full((images, slots), -1, np.int32)
    masks = np.zeros((images, slots, *canvas), bool)
    for image, (label, mask) in enumerate(zip(labels, given, strict=True)):
        classes[image, : len(label)] = label
        masks[image, : len(label), : mask.shape[1], : mask.shape[2]] = mask
    return classes, masks


def _pairs(matches: jax.Array, prefix: str = "") -> dict[str, Quantity]:
    """Matched queries in ascending order and their targets, of each image; [B, K]."""
    compared = {}
    for image, queries in enumerate(np.asarray(matches)):
        targets = np.flatnonzero(queries >= 0)
        targets = targets[queries[targets].argsort()]
        compared |= {
            f"out/{prefix}src_{image}": exact(queries[targets]),
            f"out/{prefix}tgt_{image}": exact(targets),
        }
    return compared


def compare_matcher(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Targets at the size of the predictions, the three costs, and the assignment."""
    class_logits, mask_logits = arrays["in/pred_logits"], arrays["in/pred_masks"]
    classes, masks = load_targets(arrays, len(class_logits))
    weights = TermWeights(meta["cost_class"], meta["cost_mask"], meta["cost_dice"])
    matches = match(class_logits[None], mask_logits[None], classes, masks, weights)[0]
    down = take_nearest(jnp.asarray(masks), mask_logits.shape[-2:]).astype(jnp.float32)
    focal, dice = mask_costs(*(x.reshape(*x.shape[:2], -1) for x in (mask_logits, down)))
    costs = {"mask": focal, "dice": dice, "class": class_cost(class_logits, classes)}
    compared = _pairs(matches)
    for image, count in enumerate((classes >= 0).sum(1).tolist()):
        if not count:
            continue
        compared[f"out/masks_down_{image}"] = exact(down[image, :count])
        for name, cost in costs.items():
            compared[f"out/cost_{name}_{image}"] = output(cost[image, :, :count])
    return compared


def compare_criterion(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """All terms of all layers, the pairs, the total and its gradient by the predictions."""
    auxiliary = sum(key.startswith("in/aux") and key.endswith("logits") for key in arrays)
    layers = [f"aux{layer}" for layer in range(auxiliary)] + ["final"]
    class_logits, mask_logits = (
        np.stack([arrays[f"in/{layer}_pred_{kind}"] for layer in layers])
        for kind in ("logits", "masks")
    )
    classes, masks = load_targets(arrays, class_logits.shape[1])
    factors = meta["weight_dict"]
    weights = TermWeights(*(factors[f"loss_{term}"] for term in ("ce", "mask", "dice")))

    def total_and_terms(class_logits, mask_logits):
        options = dict(weights=weights, no_object_weight=meta["eos_coef"])
        return set_losses(class_logits, mask_logits, classes, masks, **options)

    differentiate = jax.value_and_grad(total_and_terms, (0, 1), has_aux=True)
    (total, terms), gradients = jax.jit(differentiate)(class_logits, mask_logits)
    compared = {f"out/{name}": loss(value) for name, value in terms.items()}
    compared["out/total_weighted"] = loss(total)
    matches = match(class_logits, mask_logits, classes, masks, weights)
    for number, layer in enumerate(layers):
        compared |= _pairs(matches[number], f"{layer}_")
        for kind, values in zip(("logits", "masks"), gradients, strict=True):
            compared[f"grad_in/{layer}_pred_{kind}"] = gradient(values[number])
    return compared
