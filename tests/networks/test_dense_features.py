"""What the recorded cases do not show: corners, options and defaults of the methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from ovseg_jax.networks import training_free as methods
from ovseg_jax.networks.clip import ViTConfig
from ovseg_jax.networks.clip_resnet import ResNetConfig
from ovseg_jax.ops.resize import interpolation_matrix
from ovseg_jax.params import abstract_model, merge_model

pytestmark = pytest.mark.usefixtures("compiling_fast")

EMBED = 6
TINY = ViTConfig(image_size=16, patch_size=4, width=12, layers=2, heads=3)


@functools.cache
def build(config=TINY):
    """A tower with random numbers everywhere."""
    graphdef, params, stats = abstract_model(lambda rngs: config.build(EMBED, rngs=rngs))
    rng = np.random.default_rng(0)

    def fill(shapes):
        return {
            path: jnp.asarray(np.abs(rng.normal(1, 0.3, leaf.shape)), jnp.float32)
            if path.endswith(("scale", "variance"))
            else jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32)
            for path, leaf in shapes.items()
        }

    return merge_model(graphdef, fill(params), fill(stats))


def images(height, width, batch=2):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(batch, height, width, 3)), jnp.float32)


@functools.cache
def compiled(method, config, options):
    tower = build(config)

    @jax.jit
    def features(image, arrays):
        return methods.dense_features(tower, image, method, **dict(options), **arrays)

    return features


def features(image, method, config=TINY, proxy=None, **options):
    arrays = {} if proxy is None else {"proxy": proxy}
    return compiled(method, config, tuple(options.items()))(image, arrays)


def test_clip_itself_where_nothing_is_changed():
    image = images(16, 16)
    vit = build()
    plain = jax.jit(lambda image: vit.dense(image))(image)
    for method, options in (("clip", {}), ("gem", {"depth": 1})):
        found = features(image, method, **options)
        np.testing.assert_allclose(found, plain, atol=1e-5, err_msg=method)


@pytest.mark.parametrize("method", [m for m in methods.METHODS if m != "proxyclip"])
def test_every_method_gives_a_feature_per_patch(method):
    image = images(13, 22)
    found = features(image, method)
    rows = 4 if method == "maskclip_original" else 3  # it pads, the others cut off
    assert found.shape == (2, rows, 6 if rows == 4 else 5, EMBED)
    assert np.isfinite(found).all()


def test_a_table_of_as_many_rows_serves_another_shape():
    vit, image = build(), images(8, 32)
    tokens = jax.jit(lambda image: methods.embed(vit, image))(image)
    wanted = jax.jit(lambda image: vit.embed(image, keep=True))(image)
    np.testing.assert_array_equal(tokens, wanted)


def test_neighbourhood():
    near = methods.neighbourhood((2, 3), sigma=2.0)
    assert near.shape == (7, 7) and not near[0].any() and not near[:, 0].any()
    np.testing.assert_array_equal(near, near.T)
    np.testing.assert_array_equal(np.diag(near)[1:], 1)
    assert near[1, 6] == pytest.approx(np.exp(-(1 + 4) / 8))  # one row and two columns apart


def test_nearness_is_the_same_for_every_picture_of_a_batch():
    image = images(12, 20)
    both, twice = (features(x, "nearby_only") for x in (image, image[jnp.array([1, 1])]))
    np.testing.assert_allclose(both[1], twice[1], atol=1e-6)


def test_blocks_add_up():
    image = images(16, 16)
    vit = build()

    @jax.jit
    def wanted(image):
        tokens, total = methods.embed(vit, image), 0
        for block in vit.blocks:
            q, _, v = methods.heads(block.attention, block.norm1(tokens))
            weights = methods.query_query(q, None, None)
            total += block.attention.out(methods.merge_heads(weights @ v))
            tokens = block(tokens)
        return vit.project(total)[:, 1:]

    found = features(image, "clearclip", blocks=2)
    np.testing.assert_allclose(found.reshape(2, 16, -1), wanted(image), atol=1e-5)


def proxy_reference(image, proxy, beta, gamma):
    """The specification for one picture, in numpy from the values on."""
    vit = build()
    last = vit.blocks[-1]

    @jax.jit
    def last_values(image):
        tokens = methods.embed(vit, image)
        for block in vit.blocks[:-1]:
            tokens = block(tokens)
        return last.attention.value(last.norm1(tokens))

    values = np.asarray(last_values(image), np.float64)[0, 1:].reshape(*vit.grid(image), -1)
    down, across = (
        interpolation_matrix(n, m) for n, m in zip(values.shape[:2], proxy.shape[1:3], strict=True)
    )
    values = np.einsum("ph,qw,hwd->pqd", down, across, values).reshape(-1, values.shape[-1])
    unit = proxy.reshape(-1, proxy.shape[-1])
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    cosines = unit @ unit.T
    scores = gamma * (cosines - beta * cosines.mean())
    weights = softmax(np.where(scores < 0, -np.inf, scores), axis=-1)
    return jax.jit(lambda x: vit.project(last.attention.out(x)))(jnp.float32(weights @ values))


def test_proxy_features_on_a_grid_of_their_own():
    image = images(12, 20, batch=1)
    proxy = np.random.default_rng(2).normal(0.3, 1, (1, 5, 7, 4))
    found = features(image, "proxyclip", proxy=jnp.float32(proxy), beta=1.1, gamma=2.0)
    assert found.shape == (1, 5, 7, EMBED)
    wanted = proxy_reference(image, proxy, 1.1, 2.0)
    np.testing.assert_allclose(found[0].reshape(-1, EMBED), wanted, atol=1e-4)


def test_a_patch_like_all_others_counts_for_itself():
    """All cosines are 1 and none reaches 1.2 of their mean: each value stays alone."""
    image = images(16, 16)
    found = features(image, "proxyclip", proxy=jnp.ones((2, 4, 4, 3)))
    alone = features(image, "maskclip", residual=False)
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_resnet_positions():
    config = ResNetConfig(image_size=64, layers=(1, 1, 1, 1), width=16)
    resnet, image = build(config), images(64, 96)
    found = features(image, "maskclip_original", config)
    np.testing.assert_allclose(found, jax.jit(lambda x: resnet.dense(x))(image), rtol=1e-4)
    pooled = features(image, "maskclip_original", config, attention_pooling=True)
    assert pooled.shape == found.shape and not np.allclose(pooled, found)


def scores_and_keys(names=4):
    rng = np.random.default_rng(3)
    cosines = jnp.asarray(rng.uniform(0.1, 0.2, (2, 3, 5, names)), jnp.float32)
    return cosines, jnp.asarray(rng.normal(size=(2, 15, 7)), jnp.float32)


def test_refinements_are_off_by_default():
    cosines, keys = scores_and_keys()
    assert methods.refine(cosines, keys, jnp.ones(4, bool)) is cosines


@pytest.mark.parametrize("options", [{"prompt_denoising": 0.6}, {"key_smoothing": 0.9}])
def test_padding_names_change_nothing(options):
    cosines, keys = scores_and_keys()
    refine = jax.jit(functools.partial(methods.refine, **options))
    wanted = refine(cosines, keys, jnp.ones(4, bool))
    padded = jnp.pad(cosines, ((0, 0), (0, 0), (0, 0), (0, 2)), constant_values=0.9)
    found = refine(padded, keys, jnp.arange(6) < 4)
    np.testing.assert_allclose(found[..., :4], wanted, atol=1e-6)


def test_keys_of_unit_length_weigh_by_cosines():
    cosines, keys = scores_and_keys()
    options = dict(key_smoothing=2.0, normalize_channels=True)  # no position is that sure
    found = methods.refine(cosines, keys, jnp.ones(4, bool), **options)
    unit = np.asarray(keys) / np.linalg.norm(keys, axis=-1, keepdims=True)
    likely = softmax(100 * np.asarray(cosines), axis=-1).reshape(2, 15, 4)
    wanted = unit @ unit.swapaxes(1, 2) @ likely
    np.testing.assert_allclose(found.reshape(2, 15, 4), wanted, atol=1e-5)


def test_options_by_method():
    assert methods.method_options("naclip") == {"residual", "blocks", "sigma"}
    assert methods.method_options("clip") == {"residual", "blocks"}
    assert methods.method_options("proxyclip") == {"beta", "gamma"}
    assert "key_smoothing" in methods.method_options("maskclip_original")
    assert methods.method_options("gem") == {"depth", "iterations", "temperature", "residual"}
