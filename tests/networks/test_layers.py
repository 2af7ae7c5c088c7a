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


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_keeps_digits_where_the_mean_is_large(groups):
    x = np.random.default_rng(0).normal(1000.0, 1.0, (2, 3, 5, 8)).astype(np.float32)
    wide = x.astype(np.float64).reshape(2, 15, groups, 8 // groups)
    centred = wide - wide.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt(wide.var((1, 3), keepdims=True) + 1e-5)
    actual = layers.GroupNorm(8, groups)(jnp.asarray(x))
    np.testing.assert_allclose(actual, expected.reshape(x.shape), atol=1e-3)


def test_groups_are_equal():
    with pytest.raises(ValueError, match="12 channels cannot be split into 8"):
        layers.GroupNorm(12, 8)


def test_max_pool_sees_one_neighbour_in_each_direction():
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32) - 10
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = [[padded[0, i : i + 3, j : j + 3].max((0, 1)) for j in (0, 2, 4)] for i in (0, 2, 4)]
    np.testing.assert_array_equal(layers.max_pool(jnp.asarray(x))[0], expected)


def test_a_dilated_convolution_skips_pixels():
    conv = layers.Conv(1, 1, 3, dilation=2, bias=True, rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.arange(9.0).reshape(3, 3, 1, 1)
    conv.bias[...] = jnp.ones(1)
    x = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    expected = np.zeros((5, 5))
    expected[::2, ::2] = np.arange(9.0).reshape(3, 3)[::-1, ::-1]
    np.testing.assert_allclose(conv(x)[0, :, :, 0], expected + 1)


def test_attention_to_others():
    """Values come from the third argument, weights from the first two."""
    attention = layers.Attention(4, 1, rngs=nnx.Rngs(0))
    x, keys, values = (
        np.asarray(jax.random.normal(jax.random.key(i), (1, 3, 4))) for i in range(3)
    )
    q, k, v = attention.query(x), attention.key(keys), attention.value(values)
    weights = softmax(np.asarray(q[0] @ k[0].T) / 2.0, axis=-1)
    expected = attention.out(weights @ v[0])
    np.testing.assert_allclose(attention(x, keys, values)[0], expected, atol=1e-6)
    np.testing.assert_array_equal(attention(x, keys), attention(x, keys, keys))


def test_dropout_of_attention_weights():
    """Kept weights are scaled after the softmax: without values of their own they sum to it."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 2, 400, 4))
    v = jnp.broadcast_to(jnp.eye(400), (1, 2, 400, 400))
    whole = layers.attend(q, k, v)
    dropped = layers.attend(q, k, v, dropout_rate=0.25, rngs=nnx.Rngs(dropout=0))
    kept = np.asarray(dropped) > 0
    assert abs(kept.mean() - 0.75) < 0.01
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-5)
