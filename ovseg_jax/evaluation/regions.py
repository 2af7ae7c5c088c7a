"""Regions of one class each, named by a system that classifies them."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.inference import Model
from ovseg_jax.metrics.classification import Counts, accuracy, class_accuracy, count_hits
from ovseg_jax.ops.images import normalize
from ovseg_jax.text.vocabulary import Vocabulary

RANKS = (1, 5)


def count_regions(
    model: Model, vocabulary: Vocabulary, batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[int, Counts]:
    """Counts the regions whose class is among the k best names, for each k of `RANKS`.

    Args:
      model: of a system with `classify`.
      vocabulary: all classes; each has one row.
      batches: `image`, `label` (1 where the region is), `class_id`; those whose `valid` is False,
        and those without a pixel of the region, count nowhere.

    Returns:
      int64 [N] each, by row of the vocabulary.
    """
    rows = len(vocabulary.class_ids)
    totals = {k: Counts(*np.zeros((2, rows), np.int64)) for k in RANKS}
    for batch in batches:
        arrays = {key: batch[key] for key in ("image", "label", "class_id", "valid")}
        counts = jax.device_get(_count(model, vocabulary, arrays))
        totals = {k: Counts(*map(np.add, totals[k], counts[k])) for k in RANKS}
    return totals


@jax.jit
def _count(model: Model, vocabulary: Vocabulary, batch: Mapping) -> dict[int, Counts]:
    image = normalize(batch["image"], model.mean, model.std)
    logits = model.system().classify({**batch, "image": image}, vocabulary)
    same = batch["class_id"][:, None] == vocabulary.class_ids  # [B, N]
    counts = batch["valid"] & same.any(-1) & (batch["label"] == 1).any((1, 2))
    row = jnp.where(counts, same.argmax(-1), -1)
    return {k: count_hits(logits, row, k) for k in RANKS}


def region_figures(counts: Mapping[int, Counts], seen: np.ndarray) -> dict[str, float]:
    """Percentages read off the counts.

    Args:
      counts: as `count_regions` gives them.
      seen: bool [N].

    Returns:
      For each k `top_k` of all regions, `top_k_classes`, the mean over classes (0 for a class
      without regions, as in zsseg), and both of seen and unseen classes; `regions`, their number.
    """
    sets = {"": np.ones(len(seen), bool), "_seen": seen, "_unseen": ~seen}
    figures = {}
    for k, suffix in ((k, suffix) for k in counts for suffix in sets if sets[suffix].any()):
        rows = np.flatnonzero(sets[suffix])
        figures[f"top_{k}{suffix}"] = accuracy(counts[k], rows)
        figures[f"top_{k}_classes{suffix}"] = float(class_accuracy(counts[k])[rows].mean())
    return figures | {"regions": int(counts[RANKS[0]].pictures.sum())}
