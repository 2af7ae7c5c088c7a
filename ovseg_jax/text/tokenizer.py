"""Tokenizers: texts to rows of ids of one fixed length.

Every tokenizer pads with 0 and gives its end token the largest id, because the text networks read
their feature at the position of the largest id (Radford et al. 2021, the reference code).
"""

import functools
import html
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write

PACKAGED_CLIP = "clip"
CLIP_CONTEXT = 77
WORD_CONTEXT = 28

_PAD, _UNKNOWN, _START, _END = "<pad>", "<unknown>", "<start>", "<end>"
_WORD_FILE = "tokenizer.json"
_CLIP_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
_CLIP_FOLDER = Path(__file__).parent / "clip_bpe"


class Tokenizer(Protocol):
    """Texts to ids; `context` columns, 0 after the end token, which has the largest id."""

    context: int
    vocab_size: int

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 [len(texts), context]; longer texts are cut and keep the end token."""


def _rows(ids: Iterable[Sequence[int]], context: int, end: int) -> np.ndarray:
    """Pads with 0 and cuts to the context; a cut row still finishes with the end token."""
    ids = list(ids)
    rows = np.zeros((len(ids), context), np.int32)
    for row, values in zip(rows, ids, strict=True):
        values = values[:context]
        row[: len(values)] = values
        if len(values) == context:
            row[-1] = end
    return rows


class WordTokenizer:
    """One id per lower-case word or punctuation mark; unknown words share one id."""

    def __init__(self, tokenizer, context: int = WORD_CONTEXT):
        """Wraps a `tokenizers.Tokenizer`; see `from_words` and `load`.

        Args:
          tokenizer: word-level, with the four special tokens.
          context: columns of the result, start and end included.
        """
        self._tokenizer = tokenizer
        self.context = context
        self.vocab_size = tokenizer.get_vocab_size()
        self.start, self.end = (tokenizer.token_to_id(token) for token in (_START, _END))

    @classmethod
    def from_words(cls, words: Sequence[str], context: int = WORD_CONTEXT) -> "WordTokenizer":
        """Builds the tokenizer of a closed vocabulary: pad, unknown, start, the words, end."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        tokens = [_PAD, _UNKNOWN, _START, *dict.fromkeys(word.lower() for word in words), _END]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return cls(tokenizer, context)

    @classmethod
    def load(cls, folder: str | Path, context: int = WORD_CONTEXT) -> "WordTokenizer":
        """Reads `tokenizer.json` from a folder (or that file itself)."""
        from tokenizers import Tokenizer

        path = Path(folder)
        path = path if path.is_file() else path / _WORD_FILE
        return cls(Tokenizer.from_file(str(path)), context)

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` into a folder."""
        self._tokenizer.save(str(Path(folder) / _WORD_FILE))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 [len(texts), context]."""
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = ([self.start, *encoding.ids, self.end] for encoding in encodings)
        return _rows(ids, self.context, self.end)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Returns the words of a text that this vocabulary lacks."""
        encoding = self._tokenizer.encode(text)
        unknown = self._tokenizer.token_to_id(_UNKNOWN)
        return tuple(
            text[first:last]
            for i, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
            if i == unknown
        )


class LetterTokenizer:
    """One id per character, folded into the ids that there are: any text can be read.

    It stands in where a checkpoint came without its vocabulary; the texts then mean nothing.
    """

    def __init__(self, vocab_size: int, context: int):
        """Takes the number of ids, at least 4, and the columns of the result."""
        self.vocab_size, self.context = vocab_size, context
        self.start, self.end = vocab_size - 2, vocab_size - 1

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 [len(texts), context]."""
        letters = self.start - 1  # 0 is the padding
        ids = ([self.start, *(1 + ord(c) % letters for c in text), self.end] for text in texts)
        return _rows(ids, self.context, self.end)


@functools.cache
def _repair() -> Callable[[str], str]:
    """As the reference, ftfy, where it is installed; it only matters for damaged text."""
    try:
        import ftfy
    except ImportError:
        return functools.partial(unicodedata.normalize, "NFC")
    return ftfy.fix_text


def clean_text(text: str) -> str:
    """Cleans a text as CLIP's reference does before its byte pairs: repair, unescape, lower."""
    text = html.unescape(html.unescape(_repair()(text))).strip()
    return re.sub(r"\s+", " ", text).strip().lower()


class ClipTokenizer:
    """CLIP's byte pairs (Radford et al. 2021) through transformers, cleaned as in the reference.

    transformers neither unescapes HTML nor repairs damaged text, lower-cases letter by letter and
    pads with the end token; those four differences are mended here.
    """

    def __init__(self, folder: str | Path | None = None, context: int = CLIP_CONTEXT):
        """Reads the vocabulary.

        Args:
          folder: with vocab.json and merges.txt; None = the packaged vocabulary.
          context: columns of the result, start and end included.
        """
        # At import transformers would otherwise regret the lack of PyTorch, which nobody needs.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import CLIPTokenizer

        folder = Path(folder) if folder else _CLIP_FOLDER
        self._tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.context = context
        self.vocab_size = len(self._tokenizer)
        self.start = self._tokenizer.bos_token_id
        self.end = self._tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one text without start, end and padding."""
        cleaned = clean_text(text)
        if not cleaned:
            return []
        return self._tokenizer(cleaned, add_special_tokens=False)["input_ids"]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 [len(texts), context]."""
        ids = ([self.start, *self.encode(text), self.end] for text in texts)
        return _rows(ids, self.context, self.end)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of CLIP's byte pairs."""
    return all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))


def copy_tokenizer(spec: str | Path, folder: str | Path) -> None:
    """Copies the files of a tokenizer ('clip' or a folder) into a model's folder."""
    source = _CLIP_FOLDER if str(spec) == PACKAGED_CLIP else Path(spec)
    for name in (_WORD_FILE, *_CLIP_FILES):
        if (source / name).is_file():
            atomic_write(Path(folder) / name, (source / name).read_bytes())


def load_tokenizer(spec: str | Path, context: int | None = None) -> Tokenizer:
    """Loads a tokenizer.

    Args:
      spec: 'clip' for the packaged CLIP vocabulary, or a folder with vocab.json + merges.txt
        (CLIP's layout) or tokenizer.json alone (word level).
      context: tokens per text; None = 77 for CLIP, 28 for word level.

    Raises:
      UserError: when the folder holds no tokenizer.
    """
    if str(spec) == PACKAGED_CLIP:
        return ClipTokenizer(None, context or CLIP_CONTEXT)
    folder = Path(spec)
    if has_tokenizer(folder):
        return ClipTokenizer(folder, context or CLIP_CONTEXT)
    if folder.is_file() or (folder / _WORD_FILE).is_file():
        return WordTokenizer.load(folder, context or WORD_CONTEXT)
    raise UserError(
        f"no tokenizer in {str(spec)!r}: give 'clip' or a folder with tokenizer.json, "
        "or with vocab.json and merges.txt"
    )
