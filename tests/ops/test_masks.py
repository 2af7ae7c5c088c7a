"""Masks of the listed classes and of the pictures, and how far masks agree."""

import jax.numpy as jnp
import numpy as np

from ovseg_jax.ops.masks import inside, overlap_scores, overlaps, region_masks


def test_one_mask_per_listed_class():
    label = np.array([[[3, 3, 255], [0, 255, -1]]])
    masks = region_masks(jnp.asarray(label), jnp.asarray([[0, 3, -1]]))
    assert masks.dtype == bool and masks.shape == (1, 3, 2, 3)
    np.testing.assert_array_equal(masks[0], [label[0] == 0, label[0] == 3, label[0] > 255])


def test_pictures_lie_in_the_upper_left_corner():
    shown = inside(jnp.asarray([[2, 1], [1, 3]]), (2, 3))
    np.testing.assert_array_equal(shown, [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]])


def test_overlaps_are_intersections_over_unions():
    both = jnp.asarray([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    found = overlaps(both, jnp.asarray([4.0, 2.0, 0.0]), jnp.asarray([5.0, 2.0]))
    np.testing.assert_allclose(found, [[0.5, 0], [0, 1], [0, 0]])


def test_scores_of_overlaps_are_shares():
    scores = overlap_scores(jnp.asarray([[0.6, 0.2], [0.0, 0.0]]))
    np.testing.assert_allclose(scores, [[0.75, 0.25], [0, 0]], rtol=1e-6)
