"""Pixel-adaptive mask refinement: scores flow to neighbours that look alike.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020.
"""

import functools

import jax
import jax.numpy as jnp

_NEIGHBOURS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def pamr(
    image: jax.Array,
    scores: jax.Array,
    sizes: jax.Array | None = None,
    *,
    steps: int = 10,
    dilations: tuple[int, ...] = (8, 16),
) -> jax.Array:
    """Replaces scores, several times over, by a mean of those of similar neighbours.

    A pixel has eight neighbours at each distance in `dilations`. Beyond the border the picture
    continues as its outermost pixels; where the border is may be data.

    Args:
      image: float32 [B, H, W, C]; only differences between its pixels count.
      scores: float32 [B, H, W, N], each of the N refined by itself.
      sizes: int32 [B, 2], how much of each image is picture (may be traced); all of it if absent.
      steps: how many times.
      dilations: distances of the neighbours in pixels.

    Returns:
      float32 [B, H, W, N]; meaningless beyond `sizes`.
    """
    if sizes is None:
        sizes = jnp.tile(jnp.asarray(image.shape[1:3], jnp.int32), (len(image), 1))
    margin = max(dilations)
    extend = functools.partial(_extend, sizes=sizes, margin=margin)
    offsets = [(d * y, d * x) for d in dilations for y, x in _NEIGHBOURS]

    def neighbour(extended: jax.Array, offset: tuple[int, int]) -> jax.Array:
        y, x = (margin + step for step in offset)
        return extended[:, y : y + image.shape[1], x : x + image.shape[2]]

    def refine(_, scores: jax.Array) -> jax.Array:
        extended = extend(scores)
        return sum(
            weights[..., k, None] * neighbour(extended, offset) for k, offset in enumerate(offsets)
        )

    extended = extend(image)
    around = jnp.stack([neighbour(extended, offset) for offset in offsets])  # [K, B, H, W, C]
    weights = _weights(image, around, len(dilations))  # [B, H, W, K]
    return jax.lax.fori_loop(0, steps, refine, scores)


def _weights(image: jax.Array, around: jax.Array, dilations: int) -> jax.Array:
    """Share of each neighbour, by its difference over the local deviation: [B, H, W, K]."""
    # The pixel itself counts once for each distance.
    values = jnp.concatenate([around, jnp.broadcast_to(image, (dilations, *image.shape))])
    deviation = values.std(axis=0, ddof=1)
    affinity = -jnp.abs(image - around) / (1e-8 + 0.1 * deviation)
    return jnp.moveaxis(jax.nn.softmax(affinity.mean(-1), axis=0), 0, -1)


def _extend(x: jax.Array, sizes: jax.Array, margin: int) -> jax.Array:
    """Continues pictures on all sides: [B, H, W, C] -> [B, H + 2 margin, W + 2 margin, C]."""
    for axis in (1, 2):
        position = jnp.arange(-margin, x.shape[axis] + margin)
        source = jnp.clip(position, 0, sizes[:, axis - 1, None] - 1)  # [B, n]
        x = jnp.take_along_axis(x, jnp.expand_dims(source, (3 - axis, 3)), axis=axis)
    return x
