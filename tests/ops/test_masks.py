"""Masks of the listed classes."""

import jax.numpy as jnp
import numpy as np

from ovseg_jax.ops.masks import region_masks


def test_one_mask_per_listed_class():
    label = np.array([[[3, 3, 255], [0, 255, -1]]])
    masks = region_masks(jnp.asarray(label), jnp.asarray([[0, 3, -1]]))
    assert masks.dtype == bool and masks.shape == (1, 3, 2, 3)
    np.testing.assert_array_equal(masks[0], [label[0] == 0, label[0] == 3, label[0] > 255])
