import numpy as np
import pytest

from ovseg_jax.files import cache_folder
from ovseg_jax.text.embedding_cache import remembering

TOKENS = np.arange(24, dtype=np.int32).reshape(3, 2, 4)


class Encoder:
    """Counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, tokens):
        self.calls += 1
        return tokens.sum(1).astype(np.float32)


def test_what_was_encoded_once_is_read(tmp_path):
    encode = Encoder()
    first = remembering(encode, "model", tmp_path / "new")(TOKENS)
    again = remembering(encode, "model", tmp_path / "new")(TOKENS)
    assert encode.calls == 1
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, TOKENS.sum(1))


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("other", TOKENS), ("model", TOKENS + 1), ("model", TOKENS.reshape(6, 1, 4))],
)
def test_another_model_or_other_tokens_are_encoded(tmp_path, model, tokens):
    encode = Encoder()
    remembering(encode, "model", tmp_path)(TOKENS)
    found = remembering(encode, model, tmp_path)(tokens)
    assert encode.calls == 2 and len(found) == len(tokens)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00\x00"])
def test_a_damaged_file_is_made_anew(tmp_path, content):
    encode = Encoder()
    remembering(encode, "model", tmp_path)(TOKENS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    np.testing.assert_array_equal(remembering(encode, "model", tmp_path)(TOKENS), TOKENS.sum(1))
    remembering(encode, "model", tmp_path)(TOKENS)
    assert encode.calls == 2


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path):
    (tmp_path / "file").touch()
    found = remembering(Encoder(), "model", tmp_path / "file" / "cache")(TOKENS)
    np.testing.assert_array_equal(found, TOKENS.sum(1))


def test_the_folder_follows_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("embeddings") == tmp_path / "ovseg_jax" / "embeddings"
