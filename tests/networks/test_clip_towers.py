import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ovseg_jax.networks import clip as clips
from ovseg_jax.networks import clip_resnet
from ovseg_jax.params import abstract_model

TINY = clips.CLIPConfig(
    embed_dim=6,
    image=clips.ViTConfig(image_size=24, patch_size=8, width=12, layers=2, heads=3),
    text=clips.TextConfig(context=7, vocab_size=20, width=8, layers=2, heads=2),
)


@functools.cache
def build(config=TINY, dtype=jnp.float32):
    return clips.CLIP(config, rngs=nnx.Rngs(0), dtype=dtype)


# Parameters in millions as published.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("ViT-B/32", 151.28), ("ViT-B/16", 149.62), ("ViT-L/14", 427.62), ("ViT-L/14@336px", 427.94)],
)
def test_published_sizes(name, millions):
    config = clips.CLIP_SIZES[name]
    _, params, _ = abstract_model(lambda rngs: clips.CLIP(config, rngs=rngs))
    count = sum(math.prod(leaf.shape) for leaf in params.values())
    assert round(count / 1e6, 2) == millions


def test_patch_embedding_is_the_strided_convolution():
    embed = build().image.patch_embed
    image = jax.random.normal(jax.random.key(1), (2, 19, 27, 3))  # remainders are cut off
    expected = jax.lax.conv_general_dilated(
        image, embed.kernel[...], (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(embed(image), expected, atol=1e-5)


def test_other_image_sizes_and_pooling():
    image = jax.random.normal(jax.random.key(1), (2, 16, 40, 3))
    assert build().encode_image(image).shape == (2, 6)
    mean = dataclasses.replace(TINY, image=dataclasses.replace(TINY.image, pool="mean"))
    vit = build(mean).image
    tokens = vit.embed(image)
    for block in vit.blocks:
        tokens = block(tokens)
    np.testing.assert_allclose(vit(image), vit.project(tokens)[:, 1:].mean(1), atol=1e-5)


def test_unknown_pool_is_refused():
    with pytest.raises(ValueError, match="neither"):
        clips.ViTConfig(pool="max")


def test_text_feature_ignores_what_follows_the_end_token():
    model = build()
    tokens = jnp.array([[18, 3, 4, 19, 0, 0, 0]])
    other = tokens.at[0, 4:].set(jnp.array([5, 6, 19]))  # a second end token: the first wins
    np.testing.assert_allclose(model.encode_text(tokens), model.encode_text(other), atol=1e-6)
    np.testing.assert_allclose(
        model.encode_text(tokens), model.encode_text(tokens[:, :5]), atol=1e-6
    )


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="context of 7"):
        build().encode_text(jnp.zeros((1, 8), jnp.int32))


def test_encode_prompts_averages_unit_vectors():
    model = build()
    tokens = jax.random.randint(jax.random.key(0), (3, 4, 7), 0, 20)
    features = np.asarray(model.encode_text(tokens.reshape(12, 7))).reshape(3, 4, 6)
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    mean = unit.mean(1)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(clips.encode_prompts(model.text, tokens), expected, atol=1e-6)


def test_bfloat16_stays_near_float32():
    image = jax.random.normal(jax.random.key(1), (1, 24, 24, 3))
    tokens = jnp.array([[18, 3, 4, 19, 0, 0, 0]])
    exact, coarse = build(), build(dtype=jnp.bfloat16)
    assert coarse.encode_image(image).dtype == jnp.bfloat16
    assert coarse.image.projection[...].dtype == jnp.float32
    np.testing.assert_allclose(coarse(image, tokens), exact(image, tokens), atol=0.3)


def test_initialisation_of_the_text_blocks():
    config = dataclasses.replace(
        TINY, text=clips.TextConfig(context=7, vocab_size=500, width=128, layers=3, heads=2)
    )
    text = build(config).text
    block = text.blocks[0]
    deviations = {
        "query": (block.attention.query.kernel, 128**-0.5),
        "out": (block.attention.out.kernel, 128**-0.5 * 6**-0.5),
        "fc1": (block.mlp.fc1.kernel, 256**-0.5),
        "fc2": (block.mlp.fc2.kernel, 128**-0.5 * 6**-0.5),
        "embedding": (text.token_embedding, 0.02),
    }
    for name, (kernel, expected) in deviations.items():
        assert abs(float(kernel[...].std()) / expected - 1) < 0.05, name
    assert not block.attention.query.bias[...].any()
    assert block.mlp.fc1.bias[...].any()


def test_the_mean_gets_the_first_answer_of_an_attention_pool():
    config = clip_resnet.ResNetConfig(image_size=96, width=2)  # 64 channels, 3 x 3 positions
    pool = clip_resnet.AttentionPool(config, 5, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 2, 4, 64))
    answers = pool.all_answers(x)
    assert answers.shape == (2, 9, 5)
    np.testing.assert_allclose(answers[:, 0], pool(x), atol=1e-6)
