"""Focal and dice loss of class masks, class-chunk by class-chunk.

The masks come at the resolution of the patch grid and are compared at that of the labels. Full
resolution logits [B, C, 512, 512] of 171 classes would take 0.2 GB per image and as much again for
every intermediate of the backward pass; here a chunk of classes is upsampled, compared and
forgotten, and its gradient by the small masks is formed in the same pass.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ovseg_jax.losses.dice import dice_from_sums
from ovseg_jax.losses.pixel_sums import pixel_sums, upsample

NO_CLASS = -2  # a pixel without a class; -1 marks padding rows of a vocabulary


class MaskLosses(NamedTuple):
    """Scalars, both divided by the number of (image, class) pairs that are present."""

    focal: jax.Array
    dice: jax.Array


def _chunks(x: jax.Array, chunk: int, fill) -> jax.Array:
    """[C, ...] -> [ceil(C / chunk), chunk, ...], the last chunk filled up."""
    padding = -len(x) % chunk
    x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
    return x.reshape(-1, chunk, *x.shape[1:])


def _class_chunks(logits: jax.Array, chunk: int) -> jax.Array:
    """[B, h, w, C] -> [chunks, chunk, B, h, w]."""
    return _chunks(logits.transpose(3, 0, 1, 2).astype(jnp.float32), chunk, 0.0)


def has_class(labels: jax.Array, class_ids: jax.Array) -> jax.Array:
    """Which pixels [...] carry the id of one of the classes [C]; bool [...]."""
    return ((labels[..., None] == class_ids) & (class_ids >= 0)).any(-1)


def mask_losses(
    logits: jax.Array,
    labels: jax.Array,
    class_ids: jax.Array,
    *,
    chunk: int,
    ignore_unlabelled: bool = False,
) -> MaskLosses:
    """Focal loss over all masks and dice loss over the present ones (ZegCLIP, SegViT).

    N = max(1, number of (image, class) pairs with at least one pixel). Focal: sum over all images
    and classes of the mean over pixels, divided by N. Dice: sum over the present pairs, divided by
    N. A pixel of no class is a negative for every class.

    Args:
      logits: float [B, h, w, C], resized bilinearly to the size of the labels.
      labels: int [B, H, W], class ids.
      class_ids: int [C]; -1 marks padding channels, which are left out. Several channels may share
        an id.
      chunk: channels at full resolution at once; does not change the result.
      ignore_unlabelled: leaves pixels without a class out of all sums and of the mean.

    Returns:
      The two losses.
    """
    size = labels.shape[1:]
    pixels = jnp.full(labels.shape[0], float(size[0] * size[1]))
    valid = None
    if ignore_unlabelled:
        valid = has_class(labels, class_ids).astype(jnp.float32)
        pixels = jnp.maximum(valid.sum((1, 2)), 1.0)

    def chunk_losses(masks, ids):
        target = labels == ids[:, None, None, None]  # [chunk, B, H, W]
        focal, overlap, predicted = pixel_sums(masks, target, valid)
        present = target.sum((2, 3), dtype=jnp.float32)
        real = (ids >= 0)[:, None]
        exists = real & (present > 0)
        dice = dice_from_sums(overlap, predicted, present)
        return (
            jnp.where(real, focal / pixels, 0.0).sum(),
            jnp.where(exists, dice, 0.0).sum(),
            exists.sum(),
        )

    def add_chunk(totals, inputs):
        return jax.tree.map(jnp.add, totals, chunk_losses(*inputs)), None

    zeros = (jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
    inputs = (_class_chunks(logits, chunk), _chunks(class_ids, chunk, -1))
    (focal, dice, pairs), _ = jax.lax.scan(add_chunk, zeros, inputs)
    count = jnp.maximum(pairs, 1)
    return MaskLosses(focal / count, dice / count)


def best_class(
    logits: jax.Array,
    class_ids: jax.Array,
    allowed: jax.Array,
    size: tuple[int, int],
    *,
    chunk: int,
) -> jax.Array:
    """Class with the largest logit at full resolution; no gradient.

    Args:
      logits: float [B, h, w, C], resized bilinearly.
      class_ids: int [C].
      allowed: bool [C], the channels that compete.
      size: height and width wanted.
      chunk: channels at full resolution at once; does not change the result.

    Returns:
      int32 [B, *size], a class id; the lowest channel wins a tie; NO_CLASS where none is allowed.
    """

    def compare(best, inputs):
        masks, ids, allowed = inputs
        full = jnp.where(allowed[:, None, None, None], upsample(masks, size), -jnp.inf)
        value, label = full.max(0), ids[full.argmax(0)]
        better = value > best[0]
        return (jnp.where(better, value, best[0]), jnp.where(better, label, best[1])), None

    shape = (logits.shape[0], *size)
    start = (jnp.full(shape, -jnp.inf), jnp.full(shape, NO_CLASS, class_ids.dtype))
    inputs = (
        _class_chunks(jax.lax.stop_gradient(logits), chunk),
        _chunks(class_ids, chunk, -1),
        _chunks(allowed, chunk, False),
    )
    (_, labels), _ = jax.lax.scan(compare, start, inputs)
    return labels
