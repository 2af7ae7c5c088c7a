"""Top-k accuracy over pictures and over classes, as zsseg evaluates its prompts.

Hits and pictures are counted per class on the device; every accuracy is a function of the counts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Counts(NamedTuple):
    """Pictures per class, integer [C] each."""

    hits: jax.Array | np.ndarray
    pictures: jax.Array | np.ndarray


def count_hits(logits: jax.Array, labels: jax.Array, k: int = 1) -> Counts:
    """Counts the pictures whose class is among the k best; may be jitted.

    Args:
      logits: float [B, C].
      labels: int [B]; a label outside of [0, C) does not count.
      k: how many classes are looked at; of equal ones those with the lower index.

    Returns:
      int32 [C] each.
    """
    classes = jnp.arange(logits.shape[-1])
    true = jnp.asarray(labels)[:, None] == classes  # [B, C]
    _, best = jax.lax.top_k(logits, min(k, len(classes)))
    hit = (best == jnp.asarray(labels)[:, None]).any(axis=-1)  # [B]
    return Counts((true & hit[:, None]).sum(axis=0), true.sum(axis=0))


def accuracy(counts: Counts, classes: Sequence[int] | None = None) -> float:
    """Percentage of the pictures (of some classes) that are hit; NaN where there are none."""
    chosen = slice(None) if classes is None else list(classes)
    hits, pictures = (int(np.asarray(part)[chosen].sum()) for part in counts)
    return 100 * hits / pictures if pictures else float("nan")


def class_accuracy(counts: Counts) -> np.ndarray:
    """Percentage of hits per class, float64 [C]; 0 for a class without pictures.

    As in zsseg, the mean over classes is that of all of them.
    """
    hits, pictures = (np.asarray(part) for part in counts)
    return 100 * hits / np.maximum(pictures, 1)
