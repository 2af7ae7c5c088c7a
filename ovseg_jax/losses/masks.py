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
from ovseg_jax.ops.resize import resize

FOCAL_ALPHA = 0.25  # weight of positive pixels; gamma is 2 (Lin et al., "Focal Loss", 2017)
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


def _upsample(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear, [chunk, B, h, w] -> [chunk, B, H, W]."""
    return resize(masks[..., None], size)[..., 0]


def _pixel_values(full: jax.Array, target: jax.Array, valid: jax.Array | None):
    """Focal loss and sigmoid of every pixel, and their derivatives by the logit."""
    wrong = jnp.where(target, -full, full)  # 1 - p_t = sigmoid(wrong), ce = softplus(wrong)
    small = jnp.exp(-jnp.abs(wrong))
    larger = 1.0 / (1.0 + small)
    miss = jnp.where(wrong > 0, larger, small * larger)  # 1 - p_t, without cancellation
    hit = jnp.where(wrong > 0, small * larger, larger)
    ce = jnp.maximum(wrong, 0.0) + jnp.log1p(small)
    mask = 1.0 if valid is None else valid
    weight = jnp.where(target, FOCAL_ALPHA, 1.0 - FOCAL_ALPHA) * mask
    focal = weight * ce * miss**2
    slope = jnp.where(target, -weight, weight) * miss**2 * (miss + 2.0 * hit * ce)
    predicted = jnp.where(target, hit, miss) * mask
    return focal, predicted, slope, hit * miss * mask


def _sum_pixels(x: jax.Array) -> jax.Array:
    """[chunk, B, H, W] -> [chunk, B]; as a matrix product, which uses all cores of a CPU."""
    pixels = x.reshape(*x.shape[:2], -1)
    return jnp.matmul(pixels, jnp.ones(pixels.shape[-1]), precision=jax.lax.Precision.HIGHEST)


def _pixel_sums(masks, target, valid):
    """Σ focal, Σ pT and Σ p over the pixels of upsampled masks, each [chunk, B].

    A function of three sums of element-wise terms, so its derivatives by the small mask are three
    small maps. They are computed with the sums, in the only pass over the pixels; nothing of full
    resolution is kept for the backward pass or computed twice.
    """
    return _pixel_sums_forward(masks, target, valid)[0]


def _pixel_sums_forward(masks, target, valid):
    size = target.shape[2:]
    full, to_masks = jax.vjp(lambda small: _upsample(small, size), masks)
    values = _pixel_values(full, target, valid)
    # Without the barrier XLA computes the exponentials anew for each of the six uses below.
    focal, predicted, focal_slope, slope = jax.lax.optimization_barrier(values)
    sums = (focal, jnp.where(target, predicted, 0.0), predicted)
    slopes = (focal_slope, jnp.where(target, slope, 0.0), slope)
    return tuple(map(_sum_pixels, sums)), tuple(to_masks(x)[0] for x in slopes)


def _pixel_sums_backward(derivatives, cotangents):
    pairs = zip(cotangents, derivatives, strict=True)
    return sum(c[..., None, None] * d for c, d in pairs), None, None


_pixel_sums = jax.custom_vjp(_pixel_sums)
_pixel_sums.defvjp(_pixel_sums_forward, _pixel_sums_backward)


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
        focal, overlap, predicted = _pixel_sums(masks, target, valid)
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
        full = jnp.where(allowed[:, None, None, None], _upsample(masks, size), -jnp.inf)
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
