"""Contrastive losses over pictures, captions and the names that captions hold."""

import jax
import jax.numpy as jnp

# Cosines differ by tenths: a patch that shows a name then weighs some hundred times one that does
# not, and all patches of an object still count.
_SHARPNESS = 10.0


def contrastive_loss(image: jax.Array, text: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric cross-entropy; the i-th image belongs to the i-th text (Radford et al., 2021).

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


def attended_similarity(patches: jax.Array, text: jax.Array) -> jax.Array:
    """How well a picture agrees with a text where it agrees best.

    Each text weighs the patches by a softmax of their similarities with it, so that, other than in
    a mean over the picture, a patch gains nothing from what is elsewhere (between the mean and the
    maximum of FILIP, Yao et al., 2022).

    Args:
      patches: float32 [B, N, E], unit length.
      text: float32 [M, E], unit length.

    Returns:
      float32 [B, M], cosines.
    """
    similarity = jnp.einsum("bne,me->bnm", patches, text)
    return (jax.nn.softmax(_SHARPNESS * similarity, axis=1) * similarity).sum(1)


def entity_contrastive_loss(
    patches: jax.Array, text: jax.Array, tokens: jax.Array, scale: jax.Array
) -> jax.Array:
    """Contrasts every name of a caption with the names that only other captions of the batch hold.

    A multi-label contrastive loss (Xu et al., "GroupViT", 2022, section 3.2.2) in which equal names
    are the same label.

    Args:
      patches: float32 [B, N, E], unit length.
      text: float32 [B * K, E], unit length, K names for each image.
      tokens: int32 [B, K, M], ids of the names; a row of zeros is padding.
      scale: factor of the cosine similarities.

    Returns:
      Scalar: the mean over pairs of an image and a name that it holds, of its own or of another
      image's caption, of the cross-entropy against wrong names of the image and against wrong
      images of the name, half each.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])  # [B·K, M]
    valid = flat.any(-1)
    equal = (flat[:, None] == flat).all(-1)  # [B·K, B·K]
    positive = equal.reshape(*tokens.shape[:2], -1).any(1) & valid  # [B, B·K]
    logits = scale * attended_similarity(patches, text)  # [B, B·K]

    def cross_entropy(axis: int) -> jax.Array:
        wrong = jax.nn.logsumexp(
            logits, axis=axis, keepdims=True, where=valid & ~positive
        )  # -inf where nothing is wrong
        return jnp.where(positive, jax.nn.softplus(wrong - logits), 0).sum()

    return 0.5 * (cross_entropy(0) + cross_entropy(1)) / jnp.maximum(positive.sum(), 1)
