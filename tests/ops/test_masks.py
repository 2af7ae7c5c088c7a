"""Masks of the listed classes and of the pictures."""

import jax.numpy as jnp
import numpy as np

from ovseg_jax.ops.masks import inside, region_masks


def test_one_mask_per_listed_class():
    label = np.array([[[3, 3, 255], [0, 255, -1]]])
    masks = region_masks(jnp.asarray(label), jnp.asarray([[0, 3, -1]]))
    assert masks.dtype == bool and masks.shape == (1, 3, 2, 3)
    np.testing.assert_array_equal(masks[0], [label[0] == 0, label[0] == 3, label[0] > 255])


def test_pictures_lie_in_the_upper_left_corner():
    shown = inside(jnp.asarray([[2, 1], [1, 3]]), (2, 3))
    np.testing.assert_array_equal(shown, [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]])
