"""Contrastive loss over pairs of images and texts (Radford et al., 2021)."""

import jax
import jax.numpy as jnp


def contrastive_loss(image: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric cross-entropy; the i-th image belongs to the i-th text.

    Under `jit` with a sharded batch the arrays are global, and so are the negatives.

    Args:
      image: float32 [B, E], unit length.
      text: float32 [B, E], unit length.
      scale: factor of the cosine similarities (the inverse temperature).

    Returns:
      Scalar, the mean of both directions.
    """
    logits = scale * (image @ text.T)  # [B, B], rows = images
    to_text = jax.nn.log_softmax(logits, axis=1)
    to_image = jax.nn.log_softmax(logits, axis=0)
    return -0.5 * (jnp.diagonal(to_text).mean() + jnp.diagonal(to_image).mean())
