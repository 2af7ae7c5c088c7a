"""Normalisation happens exactly once."""

import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.ops.images import normalize

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def test_bytes_are_normalised_and_floats_pass():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    once = normalize(image, MEAN, STD)
    assert once.dtype == jnp.float32
    np.testing.assert_allclose(once, (image - np.array(MEAN)) / np.array(STD), rtol=1e-6)
    np.testing.assert_array_equal(normalize(once, MEAN, STD), once)


def test_refuses_other_integers():
    with pytest.raises(TypeError, match="int32"):
        normalize(np.zeros((2, 2, 3), np.int32), MEAN, STD)
