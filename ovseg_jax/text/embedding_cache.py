"""Text embeddings that outlive the process: many prompts take a CPU minutes to encode."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write

Encode = Callable[[np.ndarray], np.ndarray]


def remembering(encode: Encode, model: str, folder: Path) -> Encode:
    """An encoder that asks `encode` only for what it was never asked before.

    Tokens tell names, templates and tokenizer all at once, so they are the key.

    Args:
      encode: tokens int32 [n, P, L] -> embeddings [n, D].
      model: digest of its parameters.
      folder: a file for each call; created when the first is written.
    """

    def remembered(tokens: np.ndarray) -> np.ndarray:
        tokens = np.ascontiguousarray(tokens, np.int32)
        key = hashlib.sha256(f"{model} {tokens.shape} ".encode() + tokens.tobytes()).hexdigest()
        path = folder / f"{key}.npy"
        found = _read(path, len(tokens))
        if found is None:
            found = np.asarray(encode(tokens), np.float32)
            _write(path, found)
        return found

    return remembered


def _read(path: Path, rows: int) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing or damaged: it is made anew
        return None
    good = found.ndim == 2 and len(found) == rows and found.dtype == np.float32
    return found if good else None


def _write(path: Path, embeddings: np.ndarray) -> None:
    try:
        atomic_write(path, lambda file: np.save(file, embeddings))
    except UserError:
        return  # no room to remember; the result is as good without
