"""Learned prompts: what they say when their vectors are words, and where they end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ovseg_jax.networks.clip import TextConfig, TextTransformer
from ovseg_jax.networks.prompts import LearnedPrompt

START, END, STOP = 18, 19, 7
CONFIG = TextConfig(context=12, vocab_size=20, width=8, layers=2, heads=2)
NAMES = jnp.asarray([[START, 4, END, 0, 0], [START, 5, 6, END, 0]])


@pytest.fixture(scope="module")
def text():
    return TextTransformer(CONFIG, 6, rngs=nnx.Rngs(0))


def learned(text, before=(), after=()):
    """A prompt whose vectors are the embeddings of words."""
    prompt = LearnedPrompt(len(before), len(after), 8, rngs=nnx.Rngs(1), full_stop=STOP)
    for part, words in ((prompt.prefix, before), (prompt.suffix, after)):
        if words:
            part[...] = text.look_up(jnp.asarray(words))
    return prompt


@pytest.mark.parametrize(
    ("before", "after"), [((1, 2, 3), ()), ((), (2, 3)), ((1,), (2,)), ((1, 2), (3, 8))]
)
def test_vectors_of_words_say_what_the_words_say(text, before, after):
    written = np.zeros((2, 12), np.int32)
    for row, name in zip(written, ((4,), (5, 6)), strict=True):
        words = (START, *before, *name, *after, STOP, END)
        row[: len(words)] = words
    features = learned(text, before, after).encode(text, NAMES)
    np.testing.assert_allclose(features, text(jnp.asarray(written)), atol=1e-5)


def test_padding_of_the_names_changes_nothing(text):
    prompt = learned(text, (1, 2), (3,))
    wide = jnp.pad(NAMES, ((0, 0), (0, 7)))
    np.testing.assert_allclose(prompt.encode(text, NAMES), prompt.encode(text, wide), atol=1e-5)
    assert prompt.embed(text, NAMES)[0].shape == (2, 9, 8)
    assert prompt.embed(text, wide)[0].shape == (2, 12, 8)


def test_a_long_name_is_cut_so_that_the_prompt_fits(text):
    name = jnp.asarray([[START, *range(1, 11), END]])
    embedded, end = learned(text, (1, 2, 3), (4,)).embed(text, name)
    assert end.tolist() == [11] and embedded.shape == (1, 12, 8)
    rest = text.look_up(jnp.asarray([START, 1, 2, 3, 1, 2, 3, 4, 5, 4, STOP, END]))
    np.testing.assert_array_equal(embedded[0], rest)


def test_every_vector_gets_a_gradient(text):
    prompt = learned(text, (1, 2), (3,))
    graphdef, params = nnx.split(prompt)
    grads = jax.grad(lambda p: (nnx.merge(graphdef, p).encode(text, NAMES) ** 2).sum())(params)
    for leaf in jax.tree.leaves(grads):
        assert (jnp.abs(leaf).sum(1) > 0).all()
