"""Contrastive loss over pairs of images and texts (Radford et al., 2021)."""

import jax
import jax.numpy as jnp


def contrastive_loss(
    image: jax.Array, text: jax.Array, scale: jax.Array, false_text: jax.Array | None = None
) -> jax.Array:
    """Symmetric cross-entropy; the i-th image belongs to the i-th text.

    Under `jit` with a sharded batch the arrays are global, and so are the negatives.

    Args:
      image: float32 [B, E], unit length.
      text: float32 [B, E], unit length.
      scale: factor of the cosine similarities (the inverse temperature).
      false_text: float32 [M, E], unit length: further texts that no image belongs to.

    Returns:
      Scalar, the mean of both directions.
    """
    logits = scale * (image @ text.T)  # [B, B], rows = images
    to_image = jax.nn.log_softmax(logits, axis=0)
    if false_text is not None:
        logits = jnp.concatenate([logits, scale * (image @ false_text.T)], axis=1)  # [B, B + M]
    to_text = jax.nn.log_softmax(logits, axis=1)
    return -0.5 * (jnp.diagonal(to_text).mean() + jnp.diagonal(to_image).mean())
