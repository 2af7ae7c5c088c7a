import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from ovseg_jax.ops.pamr import pamr

NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def reference(image, scores, steps, dilations):
    """The specification for one picture, in numpy: [H, W, 3] and [H, W, N]."""
    height, width = image.shape[:2]

    def shifted(x, y_offset, x_offset):
        rows = np.clip(np.arange(height) + y_offset, 0, height - 1)
        columns = np.clip(np.arange(width) + x_offset, 0, width - 1)
        return x[rows][:, columns]

    offsets = [(d * y, d * x) for d in dilations for y, x in NEIGHBOURS]
    around = np.stack([shifted(image, *offset) for offset in offsets])
    deviation = np.concatenate([around, [image] * len(dilations)]).std(0, ddof=1)
    weights = softmax((-abs(image - around) / (1e-8 + 0.1 * deviation)).mean(-1), axis=0)
    for _ in range(steps):
        moved = np.stack([shifted(scores, *offset) for offset in offsets])
        scores = (weights[..., None] * moved).sum(0)
    return scores


@pytest.mark.parametrize(("steps", "dilations"), [(1, (1,)), (3, (2, 5)), (0, (8, 16))])
def test_pictures_of_different_sizes_on_one_canvas(steps, dilations):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 14, 20, 3))
    image[:, :, 3:9] = 1.0  # nothing differs here, nor deviates
    scores = rng.normal(size=(2, 14, 20, 4))
    sizes = np.array([(14, 20), (11, 7)])
    refine = jax.jit(functools.partial(pamr, steps=steps, dilations=dilations))
    found = refine(jnp.float32(image), jnp.float32(scores), jnp.asarray(sizes))
    for i, (h, w) in enumerate(sizes):
        wanted = reference(image[i, :h, :w], scores[i, :h, :w], steps, dilations)
        np.testing.assert_allclose(found[i, :h, :w], wanted, atol=2e-5)


def test_constant_scores_of_whole_images_stay():
    image = np.random.default_rng(0).normal(size=(1, 9, 9, 3)).astype(np.float32)
    refined = jax.jit(pamr)(image, jnp.full((1, 9, 9, 2), 3.0))
    np.testing.assert_allclose(refined, 3.0, rtol=1e-5)
