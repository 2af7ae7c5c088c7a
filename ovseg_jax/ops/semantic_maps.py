"""Scores of pixels from classified masks: the sum of the masks, each times its classes' scores.

Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS
2021, section 3.3.
"""

import jax
import jax.numpy as jnp

from ovseg_jax.ops.mixture import Mixture
from ovseg_jax.ops.resize import apply_matrices, interpolation_matrix, resize, traced_matrices


def semantic_map(scores: jax.Array, masks: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """The scores of all pixels of a picture.

    Args:
      scores: of queries and classes, float32 [B, Q, C].
      masks: logits [B, Q, h, w].
      shape: height and width to which the logits are brought first.

    Returns:
      float32 [B, *shape, C].
    """
    return _weigh(scores, resize(masks.transpose(0, 2, 3, 1), shape))  # [B, *shape, Q]


def original_semantic_map(
    scores: jax.Array,
    masks: jax.Array,
    canvas: tuple[int, int],
    sizes: jax.Array,
    original_sizes: jax.Array,
    shape: tuple[int, int],
    *,
    masks_first: bool = False,
) -> jax.Array:
    """The scores at the sizes that the pictures had, which are data.

    The published order brings the logits to the size that entered the network, scores its pixels,
    cuts off the padding and resizes the scores. MaskFormer's panoptic models cut and resize the
    logits instead and score the pixels of the original.

    Args:
      scores: of queries and classes, float32 [B, Q, C].
      masks: logits [B, Q, h, w].
      canvas: height and width that entered the network, padding included.
      sizes: int32 [B, 2], how much of that was picture.
      original_sizes: int32 [B, 2], at most `shape`.
      shape: padded height and width of the result.
      masks_first: whether the logits are resized, and not the scores.

    Returns:
      float32 [B, *shape, C], meaningless beyond the original sizes.
    """
    matrices = traced_matrices(canvas, sizes, original_sizes, shape)
    if not masks_first:
        return apply_matrices(semantic_map(scores, masks, canvas), *matrices)
    # Both steps in one: nothing of the canvas' size arises.
    both = [
        jnp.matmul(matrix, interpolation_matrix(n, full), precision=jax.lax.Precision.HIGHEST)
        for matrix, n, full in zip(matrices, masks.shape[2:], canvas, strict=True)
    ]
    return _weigh(scores, apply_matrices(masks.transpose(0, 2, 3, 1), *both))


def _weigh(scores: jax.Array, masks: jax.Array) -> jax.Array:
    """Scores [B, Q, C] and mask logits [B, H, W, Q] -> [B, H, W, C]."""
    return Mixture(jax.nn.sigmoid(masks.astype(jnp.float32)), scores).scores()
