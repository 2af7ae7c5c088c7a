import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.text.tokenizer import (
    ClipTokenizer,
    LetterTokenizer,
    WordTokenizer,
    clean_text,
    load_tokenizer,
)

CASES = Path(__file__).parents[1] / "golden" / "clip" / "tokenizer_cases.json"
HAS_FTFY = importlib.util.find_spec("ftfy") is not None


@pytest.fixture(scope="module")
def clip() -> ClipTokenizer:
    return load_tokenizer("clip")


@pytest.fixture(scope="module")
def cases() -> list[dict]:
    recorded = json.loads(CASES.read_text(encoding="utf-8"))["cases"]
    return [case for case in recorded if HAS_FTFY or case["same_without_ftfy"]]


def test_clip_equals_the_reference(clip, cases):
    assert len(cases) >= 136
    for case in cases:
        assert clean_text(case["text"]) == case["cleaned"]
        assert clip.encode(case["text"]) == case["ids"], case["text"]
        row = np.zeros(77, np.int32)
        row[: len(case["row77"])] = case["row77"]
        np.testing.assert_array_equal(clip([case["text"]])[0], row)


def test_clip_cuts_long_texts_and_keeps_the_end(clip, cases):
    long = [case for case in cases if case["too_long"]]
    assert long
    for case in long:
        row = clip([case["text"]])[0]
        assert row[-1] == clip.end == row.max()
    short = ClipTokenizer(context=5)(["a photo of a cat"])[0]
    assert short.tolist() == [49406, *clip.encode("a photo of"), 49407]


def test_clip_ids(clip):
    assert (clip.start, clip.end, clip.vocab_size) == (49406, 49407, 49408)
    assert clip([]).shape == (0, 77)


def test_word_ids_are_pad_unknown_start_words_end():
    tokenizer = WordTokenizer.from_words(["grass", "star", "."], context=6)
    assert tokenizer.vocab_size == 7
    rows = tokenizer(["STAR, grass.", "", "star star star star star star"])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(
        rows, [[2, 4, 1, 3, 5, 6], [2, 6, 0, 0, 0, 0], [2, 4, 4, 4, 4, 6]]
    )
    assert tokenizer.unknown_words("a star, grass") == ("a", ",")


def test_word_tokenizer_round_trips_through_its_file(tmp_path):
    tokenizer = WordTokenizer.from_words(["grass", "star"], context=8)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path, context=8)
    texts = ["a star on grass", "Grass"]
    np.testing.assert_array_equal(loaded(texts), tokenizer(texts))
    assert load_tokenizer(tmp_path / "tokenizer.json").context == 28


def test_letters_stand_in_for_a_vocabulary_of_any_size():
    tokenizer = LetterTokenizer(vocab_size=8, context=6)
    rows = tokenizer(["a b", "猫, a dog in the grass"])
    np.testing.assert_array_equal(rows[0], [6, 1 + 97 % 5, 1 + 32 % 5, 1 + 98 % 5, 7, 0])
    assert rows[1, -1] == 7 and (rows[1, 1:-1] < 6).all() and rows[1].all()


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
