"""Regions that masks cut out, against cutting and resizing one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.ops.regions import cut_region, cut_regions, expand_boxes, mask_boxes
from ovseg_jax.ops.resize import resize

SHAPE = (20, 30)
BOXES = [(3, 2, 9, 17), (0, 0, 30, 20), (29, 19, 30, 20), (12, 5, 13, 6), (20, 0, 30, 4)]


def filled(boxes=BOXES):
    """Masks that fill the corners of their boxes."""
    masks = np.zeros((len(boxes), *SHAPE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top, left] = mask[bottom - 1, right - 1] = True
    return jnp.asarray(masks)


def picture():
    return jax.random.normal(jax.random.key(0), (*SHAPE, 3))


def test_boxes_touch_the_outermost_pixels():
    boxes, valid = mask_boxes(filled())
    np.testing.assert_array_equal(boxes, BOXES)
    assert boxes.dtype == jnp.int32 and valid.all()


def test_an_empty_mask_is_not_valid_and_harms_nobody():
    masks = jnp.concatenate([jnp.zeros((1, *SHAPE), bool), filled()])
    boxes, valid = mask_boxes(masks)
    np.testing.assert_array_equal(valid, [False, True, True, True, True, True])
    np.testing.assert_array_equal(boxes[0], [0, 0, 1, 1])
    regions = cut_regions(picture(), masks, boxes, 8, jnp.zeros(3))
    assert np.isfinite(regions).all() and not regions[0].any()


def test_boxes_expand_about_their_centre_and_end_at_the_picture():
    boxes = jnp.asarray([(10, 10, 14, 13), (0, 0, 5, 5), (20, 4, 30, 20)])
    expanded = jax.jit(expand_boxes, static_argnums=1)(boxes, 1.5, jnp.asarray(SHAPE))
    # 9.0, 9.25, 15.0, 13.75; -1.25 and 6.25; 17.5, 0.0, 32.5, 24.0
    np.testing.assert_array_equal(expanded, [(9, 9, 15, 13), (0, 0, 6, 6), (17, 0, 30, 20)])
    np.testing.assert_array_equal(expand_boxes(boxes, 1.0, SHAPE), boxes)


@pytest.mark.parametrize("soft", [False, True])
def test_regions_equal_cutting_and_resizing(soft):
    masks = filled()
    boxes, _ = mask_boxes(masks)
    if soft:
        masks = jax.random.uniform(jax.random.key(1), masks.shape)
    fill = jnp.asarray([0.5, -1.0, 2.0])
    regions = jax.jit(cut_regions, static_argnums=3)(picture(), masks, boxes, 12, fill)
    for region, mask, box in zip(regions, masks, boxes, strict=True):
        alone = cut_region(picture(), mask, box, fill)
        assert alone.shape == (box[3] - box[1], box[2] - box[0], 3)
        np.testing.assert_allclose(region, resize(alone, (12, 12), "bicubic"), atol=2e-5)


def test_nothing_outside_of_the_mask_is_seen():
    masks, box = filled(BOXES[:1]), BOXES[0]
    changed = jnp.where(masks[0][..., None], picture(), 100.0)
    fill = jnp.asarray([0.5, -1.0, 2.0])
    for image in (picture(), changed):
        region = cut_region(image, masks[0], box, fill)
        np.testing.assert_allclose(region[0, 0], picture()[2, 3], atol=1e-6)
        np.testing.assert_allclose(region[1, 1], fill)
    both = [cut_regions(x, masks, jnp.asarray([box]), 9, fill) for x in (picture(), changed)]
    np.testing.assert_allclose(*both, atol=1e-5)


def test_other_masks_compile_nothing_anew():
    count = 0

    @jax.jit
    def regions(masks):
        nonlocal count
        count += 1
        boxes, _ = mask_boxes(masks)
        return cut_regions(picture(), masks, boxes, 8, jnp.zeros(3))

    first, second = regions(filled()), regions(filled(BOXES[::-1]))
    assert count == 1
    np.testing.assert_allclose(first[::-1], second, atol=1e-6)
