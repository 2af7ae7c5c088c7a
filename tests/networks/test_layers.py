import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf, softmax

from ovseg_jax.networks import layers


def test_layer_norm_keeps_digits_where_the_mean_is_large():
    x = np.random.default_rng(0).normal(1000.0, 1.0, (4, 64))
    wide = x.astype(np.float32).astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    actual = layers.LayerNorm(64)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_activations():
    x = np.linspace(-4, 4, 101, dtype=np.float32)
    np.testing.assert_allclose(layers.quick_gelu(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
    np.testing.assert_allclose(layers.gelu(x), x * 0.5 * (1 + erf(x / np.sqrt(2))), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_attend_is_softmax_attention_with_its_gradient(causal):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 3, 5, 4)) * 3
    if not causal:
        q = q[:, :, :4]  # as many queries as keys is a special case

    def reference(q, k, v):
        scores = jnp.einsum("bhnd,bhmd->bhnm", q, k) / 2.0
        if causal:
            scores = jnp.where(np.tri(5, dtype=bool), scores, -1e9)
        return jax.nn.softmax(scores) @ v

    def attend(q, k, v):
        return layers.attend(q, k, v, causal=causal)

    np.testing.assert_allclose(attend(q, k, v), reference(q, k, v), atol=1e-6)
    weight = jax.random.normal(jax.random.key(1), attend(q, k, v).shape)
    actual, expected = (
        jax.grad(lambda *a, f=f: (f(*a) * weight).sum(), argnums=(0, 1, 2))(q, k, v)
        for f in (attend, reference)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)


def test_attend_survives_large_scores():
    q = jnp.full((1, 1, 2, 4), 100.0)
    v = jnp.arange(8.0).reshape(1, 1, 2, 4)
    np.testing.assert_allclose(layers.attend(q, q, v)[0, 0, 0], v[0, 0].mean(0))


def test_attention_splits_the_channel_axis_head_by_head():
    attention = layers.Attention(6, 2, rngs=nnx.Rngs(0))
    x = np.asarray(jax.random.normal(jax.random.key(1), (1, 4, 6)))
    q, k, v = (np.asarray(getattr(attention, n)(x)) for n in ("query", "key", "value"))
    heads = [
        softmax(q[0, :, part] @ k[0, :, part].T / np.sqrt(3), axis=-1) @ v[0, :, part]
        for part in (slice(0, 3), slice(3, 6))
    ]
    expected = attention.out(np.concatenate(heads, -1))
    np.testing.assert_allclose(attention(x)[0], expected, atol=1e-6)


def test_attention_rejects_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="width 6 is not a multiple of 4 heads"):
        layers.Attention(6, 4, rngs=nnx.Rngs(0))


def test_dropout_scales_what_it_keeps():
    x = jnp.ones((1000,))
    assert layers.dropout(x, 0.5, None) is x
    assert layers.dropout(x, 0.0, nnx.Rngs(0)) is x
    y = layers.dropout(x, 0.25, nnx.Rngs(0))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert 0.7 < float((y > 0).mean()) < 0.8


def test_compute_type_follows_the_input():
    block = layers.Block(8, 2, rngs=nnx.Rngs(0))
    assert block(jnp.ones((1, 3, 8), jnp.bfloat16)).dtype == jnp.bfloat16
    assert block.mlp.fc1.kernel[...].dtype == jnp.float32
