"""Focal loss on sigmoid logits (Lin et al., "Focal Loss for Dense Object Detection", 2017)."""

import jax
import jax.numpy as jnp


def sigmoid_focal(
    logits: jax.Array, target: jax.Array, alpha: float = 0.25, gamma: float = 2.0
) -> jax.Array:
    """Element-wise focal loss, α_t · ce · (1 − p_t)^γ.

    Args:
      logits: float, any shape.
      target: bool of the same shape.
      alpha: weight of the positives; negatives weigh 1 − alpha.
      gamma: how strongly well-classified elements are discounted.

    Returns:
      float of the same shape.
    """
    wrong = jnp.where(target, -logits, logits)  # 1 - p_t = sigmoid(wrong), ce = softplus(wrong)
    weight = jnp.where(target, alpha, 1.0 - alpha)
    return weight * jax.nn.softplus(wrong) * jax.nn.sigmoid(wrong) ** gamma
