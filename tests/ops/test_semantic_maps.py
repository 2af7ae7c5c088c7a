import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.ops.resize import resize
from ovseg_jax.ops.semantic_maps import original_semantic_map, semantic_map

KEYS = jax.random.split(jax.random.key(0), 2)
MASKS = jax.random.normal(KEYS[0], (2, 3, 4, 6)) * 3
SCORES = jax.nn.softmax(jax.random.normal(KEYS[1], (2, 3, 5)))


def test_a_pixel_sums_the_scores_of_its_masks():
    found = semantic_map(SCORES, MASKS, (4, 6))
    assert found.shape == (2, 4, 6, 5)
    weights = 1 / (1 + np.exp(-np.asarray(MASKS[1, :, 2, 3])))
    np.testing.assert_allclose(found[1, 2, 3], weights @ SCORES[1], rtol=1e-5)


@pytest.mark.parametrize("masks_first", [False, True])
def test_original_sizes_picture_by_picture(masks_first):
    canvas = (16, 24)
    sizes, originals = [(16, 20), (13, 24)], [(30, 41), (9, 17)]
    shape = (32, 48)

    @jax.jit
    def batched(sizes, originals):
        return original_semantic_map(
            SCORES, MASKS, canvas, sizes, originals, shape, masks_first=masks_first
        )

    found = batched(jnp.array(sizes), jnp.array(originals))
    assert found.shape == (2, *shape, 5)
    for i, ((h, w), original) in enumerate(zip(sizes, originals, strict=True)):
        logits = resize(MASKS[i].transpose(1, 2, 0), canvas)
        if masks_first:
            weights = jax.nn.sigmoid(resize(logits[:h, :w], original))
            expected = weights @ SCORES[i]
        else:
            expected = resize((jax.nn.sigmoid(logits) @ SCORES[i])[:h, :w], original)
        np.testing.assert_allclose(found[i, : original[0], : original[1]], expected, atol=1e-5)


def test_other_sizes_compile_nothing_anew():
    traces = []

    @jax.jit
    def batched(sizes, originals):
        traces.append(None)
        return original_semantic_map(SCORES, MASKS, (16, 24), sizes, originals, (32, 48))

    for shift in range(3):
        batched(jnp.array([[16, 20], [13, 24]]) - shift, jnp.array([[30, 41], [9, 17]]) + shift)
    assert len(traces) == 1
