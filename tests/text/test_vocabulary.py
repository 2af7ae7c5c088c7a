import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import LabelSpace, from_words
from ovseg_jax.text.tokenizer import WordTokenizer
from ovseg_jax.text.vocabulary import build_prompts, build_vocabulary

WORDS = ("a", "photo", "of", "cat", "grass", "lawn", "dog", "star")
TOKENIZER = WordTokenizer.from_words(WORDS, context=8)
TEMPLATES = ("a photo of a {}", "{}")
SPACE = LabelSpace("test", (("cat",), ("grass", "lawn"), ("dog",)), seen=(0, 2), unseen=(1,))


def encode(tokens):
    """Sum and maximum of the ids of each name."""
    return jnp.stack([tokens.sum((1, 2)), tokens[:, 0].max(1)], axis=1).astype(jnp.float32)


def test_prompts_fill_every_template_for_every_query():
    prompts, class_ids = build_prompts(SPACE, TEMPLATES)
    assert prompts[2] == ["a photo of a lawn", "lawn"]
    np.testing.assert_array_equal(class_ids, [0, 1, 1, 2])


def test_rows_follow_the_classes_and_padding_is_marked():
    vocabulary = build_vocabulary(encode, TOKENIZER, SPACE, TEMPLATES, pad_to_multiple=8)
    np.testing.assert_array_equal(vocabulary.class_ids, [0, 1, 1, 2, -1, -1, -1, -1])
    np.testing.assert_array_equal(vocabulary.seen, [1, 0, 0, 1, 0, 0, 0, 0])
    assert vocabulary.embeddings.dtype == jnp.float32
    assert not vocabulary.embeddings[4:].any()
    expected = [TOKENIZER(list(p)).sum() for p in build_prompts(SPACE, TEMPLATES)[0]]
    np.testing.assert_array_equal(vocabulary.embeddings[:4, 0], expected)


def test_subset_keeps_the_ids_of_the_data_set():
    vocabulary = build_vocabulary(encode, TOKENIZER, SPACE, TEMPLATES, subset="unseen")
    np.testing.assert_array_equal(vocabulary.class_ids, [1, 1])
    assert not vocabulary.seen.any()


def test_without_a_split_every_class_is_seen():
    vocabulary = build_vocabulary(encode, TOKENIZER, from_words("cat; dog"), TEMPLATES)
    assert vocabulary.seen.all()


@pytest.mark.parametrize("texts_per_call", [1, 2, 4, 5, 100])
def test_chunks_have_one_shape_and_do_not_change_the_result(texts_per_call):
    shapes = []

    def counted(tokens):
        shapes.append(tokens.shape)
        return encode(tokens)

    space = from_words("cat; grass, lawn; dog; star")
    whole = build_vocabulary(encode, TOKENIZER, space, TEMPLATES)
    parts = build_vocabulary(counted, TOKENIZER, space, TEMPLATES, texts_per_call=texts_per_call)
    assert len(set(shapes)) == 1
    assert shapes[0][0] * shapes[0][1] <= max(texts_per_call, len(TEMPLATES))
    np.testing.assert_array_equal(whole.embeddings, parts.embeddings)


def test_a_vocabulary_is_a_pytree():
    vocabulary = build_vocabulary(encode, TOKENIZER, SPACE, TEMPLATES)
    doubled = jax.jit(lambda v: jax.tree.map(lambda x: x * 2, v))(vocabulary)
    np.testing.assert_array_equal(doubled.embeddings, vocabulary.embeddings * 2)


def test_templates_are_needed():
    with pytest.raises(UserError, match="at least one prompt template"):
        build_vocabulary(encode, TOKENIZER, SPACE, ())


@pytest.mark.parametrize(("words", "length"), [(2, 16), (15, 32), (40, 40)])
def test_padding_is_not_encoded(words, length):
    tokenizer = WordTokenizer.from_words(WORDS, context=40)
    shapes = []

    def counted(tokens):
        shapes.append(tokens.shape)
        return encode(tokens)

    found = build_vocabulary(counted, tokenizer, from_words(" ".join(["cat"] * words)), ("{}",))
    assert {shape[-1] for shape in shapes} == {length}
    text = tokenizer([" ".join(["cat"] * words)])
    np.testing.assert_array_equal(found.embeddings[0], [text.sum(), text.max()])


def test_tokens_stay_where_asked_for():
    options = dict(subset="seen", pad_to_multiple=4)
    assert build_vocabulary(encode, TOKENIZER, SPACE, TEMPLATES, **options).tokens is None
    vocabulary = build_vocabulary(
        encode, TOKENIZER, SPACE, TEMPLATES, **options, keep_tokens=True, texts_per_call=2
    )
    assert vocabulary.tokens.shape[:2] == (4, 2)
    np.testing.assert_array_equal(encode(vocabulary.tokens)[:2], vocabulary.embeddings[:2])
    np.testing.assert_array_equal(vocabulary.tokens[2:], vocabulary.tokens[np.array([1, 1])])
