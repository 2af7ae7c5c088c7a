"""Focal loss and overlap of a few masks at full resolution, from masks at the network's."""

import jax
import jax.numpy as jnp

from ovseg_jax.ops.resize import resize

FOCAL_ALPHA = 0.25  # weight of positive pixels; gamma is 2 (Lin et al., "Focal Loss", 2017)


def upsample(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear, [..., h, w] -> [..., H, W]."""
    return resize(masks[..., None], size)[..., 0]


def logistic(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """σ(x), σ(-x) without cancellation, and softplus(x), from one exponential."""
    small = jnp.exp(-jnp.abs(x))
    larger = 1.0 / (1.0 + small)
    positive = x > 0
    rising = jnp.where(positive, larger, small * larger)
    falling = jnp.where(positive, small * larger, larger)
    return rising, falling, jnp.maximum(x, 0.0) + jnp.log1p(small)


def _pixel_values(full: jax.Array, target: jax.Array, valid: jax.Array | None):
    """Focal loss and sigmoid of every pixel, and their derivatives by the logit."""
    wrong = jnp.where(target, -full, full)  # 1 - p_t = sigmoid(wrong), ce = softplus(wrong)
    miss, hit, ce = logistic(wrong)
    mask = 1.0 if valid is None else valid
    weight = jnp.where(target, FOCAL_ALPHA, 1.0 - FOCAL_ALPHA) * mask
    focal = weight * ce * miss**2
    slope = jnp.where(target, -weight, weight) * miss**2 * (miss + 2.0 * hit * ce)
    predicted = jnp.where(target, hit, miss) * mask
    return focal, predicted, slope, hit * miss * mask


def _sum_pixels(x: jax.Array) -> jax.Array:
    """[..., H, W] -> [...]; as a matrix product, which uses all cores of a CPU."""
    pixels = x.reshape(*x.shape[:-2], -1)
    return jnp.matmul(pixels, jnp.ones(pixels.shape[-1]), precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def pixel_sums(masks: jax.Array, target: jax.Array, valid: jax.Array | None = None):
    """Sums over the pixels of upsampled masks, of which focal and dice loss are made.

    A function of three sums of element-wise terms, so its derivatives by the small mask are three
    small maps. They are computed with the sums, in the only pass over the pixels; nothing of full
    resolution is kept for the backward pass or computed twice.

    Args:
      masks: float32 [..., h, w], logits; the only argument with a gradient.
      target: bool [..., H, W].
      valid: float32 [..., H, W], weights of the pixels; None = all 1.

    Returns:
      Σ focal loss, Σ pT and Σ p, each float32 [...].
    """
    return _pixel_sums_forward(masks, target, valid)[0]


def _pixel_sums_forward(masks, target, valid):
    size = target.shape[-2:]
    full, to_masks = jax.vjp(lambda small: upsample(small, size), masks)
    values = _pixel_values(full, target, valid)
    # Without the barrier XLA computes the exponentials anew for each of the six uses below.
    focal, predicted, focal_slope, slope = jax.lax.optimization_barrier(values)
    sums = (focal, jnp.where(target, predicted, 0.0), predicted)
    slopes = (focal_slope, jnp.where(target, slope, 0.0), slope)
    return tuple(map(_sum_pixels, sums)), tuple(to_masks(x)[0] for x in slopes)


def _pixel_sums_backward(derivatives, cotangents):
    pairs = zip(cotangents, derivatives, strict=True)
    return sum(c[..., None, None] * d for c, d in pairs), None, None


pixel_sums.defvjp(_pixel_sums_forward, _pixel_sums_backward)
