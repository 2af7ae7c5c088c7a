"""Regions of a picture that masks cut out, as inputs of a classifier of pictures.

Every mask becomes a square of one size: the picture is cut to the mask's box, painted over outside
of the mask, and resized. Boxes are data: a region is the product of the masked picture with two
interpolation matrices, so that neither other masks nor other pictures compile anything anew.
"""

import jax
import jax.numpy as jnp

from ovseg_jax.ops.resize import traced_bicubic_matrix

# The masked pictures of so many masks exist at once, 6.5 MB each for 640 x 853 pixels.
_MASKS_AT_ONCE = 8


def mask_boxes(masks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest boxes around masks.

    Args:
      masks: bool [Q, H, W]; False on padding around the picture.

    Returns:
      int32 [Q, 4], left, top, right, bottom; the last two are one past the last pixel. And bool
      [Q]: whether the mask has a pixel at all; the box of an empty one is one pixel.
    """
    left, right, valid = _ends(masks.any(1))
    top, bottom, _ = _ends(masks.any(2))
    return jnp.stack([left, top, right, bottom], axis=1), valid


def _ends(marks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """First and one past the last true entry of bool [Q, N], and whether there is any."""
    valid = marks.any(1)
    first = marks.argmax(1).astype(jnp.int32)
    last = marks.shape[1] - marks[:, ::-1].argmax(1).astype(jnp.int32)
    return first, jnp.where(valid, last, 1), valid


def expand_boxes(boxes: jax.Array, ratio: float, size: jax.Array) -> jax.Array:
    """Scales boxes about their centres, truncates to whole pixels and clips to the picture.

    Args:
      boxes: int32 [Q, 4] as `mask_boxes` gives them.
      ratio: new over old side, at least 1.
      size: int [2], height and width of the picture; may be traced.

    Returns:
      int32 [Q, 4].
    """
    corners = boxes.astype(jnp.float32)
    low, high = corners[:, :2], corners[:, 2:]
    center, half = 0.5 * (low + high), 0.5 * ((high - low) * jnp.float32(ratio))
    expanded = jnp.concatenate([center - half, center + half], axis=1).astype(jnp.int32)
    height, width = size[0], size[1]
    return jnp.clip(expanded, 0, jnp.stack([width, height, width, height]).astype(jnp.int32))


def cut_regions(
    image: jax.Array, masks: jax.Array, boxes: jax.Array, size: int, fill: jax.Array
) -> jax.Array:
    """Cuts, paints over and resizes the regions of many masks, a few at a time.

    Args:
      image: float32 [H, W, 3], normalised.
      masks: bool [Q, H, W], or float32 between 0 and 1 for soft masks.
      boxes: int32 [Q, 4], left, top, right, bottom; within the image, at least one pixel large.
      size: side of the result; ratios are not kept.
      fill: float32 [3], normalised colour outside of the masks.

    Returns:
      float32 [Q, size, size, 3], bicubic without antialiasing.
    """
    channels = (image - fill).transpose(2, 0, 1)  # [3, H, W]
    exact = dict(precision=jax.lax.Precision.HIGHEST)

    def cut(region):
        mask, (left, top, right, bottom) = region
        down = traced_bicubic_matrix(top, bottom - top, image.shape[0], size)
        across = traced_bicubic_matrix(left, right - left, image.shape[1], size)
        columns = jnp.einsum("chw,xw->chx", mask * channels, across, **exact)
        # Weights add up to 1, so that a colour taken off before may be put back afterwards.
        return jnp.einsum("yh,chx->yxc", down, columns, **exact) + fill

    return jax.lax.map(cut, (masks, boxes), batch_size=_MASKS_AT_ONCE)


def cut_region(image: jax.Array, mask: jax.Array, box: jax.Array, fill: jax.Array) -> jax.Array:
    """One region at its own size, painted over but not resized; not for inside `jit`.

    Arguments as those of `cut_regions`, for one mask [H, W] and one concrete box [4].
    """
    left, top, right, bottom = (int(n) for n in box)
    inside = mask[top:bottom, left:right, None]
    return inside * (image[top:bottom, left:right] - fill) + fill
