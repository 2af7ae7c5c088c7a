"""From the scores of names to the class of every pixel, or of whole regions.

The best row of a vocabulary speaks for its class, after the rules of a protocol: the softmax over
all names, the threshold of the background, the rule about small areas. More names than fit in
memory are compared in parts.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ovseg_jax.errors import UserError
from ovseg_jax.ops.masks import inside, overlap_scores, overlaps
from ovseg_jax.ops.mixture import Mixture
from ovseg_jax.text.vocabulary import Vocabulary

BACKGROUND = 0  # the class that the rules about areas and probabilities fall back to


class Scores(Protocol):
    """Scores of a batch of pictures for any names, as `inference` computes them.

    Attributes:
      views: of each picture, the mirrored one included.
    """

    views: int

    def of(self, names: Vocabulary) -> list[jax.Array | Mixture]:
        """Scores [B, h, w, N] of each view, or what they are sums of."""

    def mixtures(self, names: Vocabulary) -> list[Mixture] | None:
        """What the scores of each view are sums of, if they are."""

    def at_labels(
        self,
        function: Callable,
        views: list[jax.Array | Mixture],
        *maps: jax.Array,
        join: Callable | None = None,
    ) -> Any:
        """A function of the views' scores [B, rows, W, N] at the size of the labels."""


class Rules(NamedTuple):
    """How the scores of names become a class.

    Attributes:
      softmax: whether the softmax over the names is compared and not their scores.
      threshold: the least probability that is not background; None = any.
      candidates: bool [B, C], classes that compete in each picture; None = all.
    """

    softmax: bool
    threshold: jax.Array | None
    candidates: jax.Array | None

    def rows(self, class_ids: jax.Array) -> jax.Array:
        """Rows of a vocabulary int32 [N] that compete, bool [B, N], or [1, N] if alike for all."""
        real = class_ids[None] >= 0
        if self.candidates is None:
            return real
        return real & self.candidates[:, jnp.maximum(class_ids, 0)]

    def with_background(self, labels: jax.Array, scores: jax.Array) -> jax.Array:
        """Labels int32 [B, ...] where their scores reach the threshold."""
        if self.threshold is None:
            return labels
        improbable = scores < self.threshold
        if self.candidates is not None:
            possible = self.candidates[:, BACKGROUND]
            improbable &= possible.reshape(-1, *(1,) * (labels.ndim - 1))
        return jnp.where(improbable, BACKGROUND, labels)


def decide(
    views: list[jax.Array],
    *,
    class_ids: jax.Array,
    rules: Rules,
    with_scores: bool,
    kept: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Class ids int32 [B, H, W] of the best rows, and the scores that were compared.

    Args:
      views: scores [B, H, W, N], of the picture and of mirrored ones.
      class_ids: int32 [N], -1 for padding.
      rules: how they become a class.
      with_scores: whether the scores are returned too.
      kept: bool [B, N], rows that may win after all have competed; None = all.
    """
    rows = rules.rows(class_ids)[:, None, None]
    views = [jnp.where(rows, view, -jnp.inf) for view in views]
    if rules.softmax:
        views = [jax.nn.softmax(view, axis=-1) for view in views]
    scores = sum(views) / len(views)
    if kept is not None:
        scores = jnp.where(kept[:, None, None], scores, 0.0 if rules.softmax else -jnp.inf)
    best = jnp.argmax(scores, axis=-1)  # the first row wins a tie
    labels = rules.with_background(class_ids[best], scores.max(-1))
    return labels, scores if with_scores else None


def large_classes(
    labels: jax.Array, inside: jax.Array, class_ids: jax.Array, share: float
) -> jax.Array:
    """Rows whose class has more than a share of what is no background: bool [B, N].

    The background counts as large.
    """
    areas = ((labels[..., None] == class_ids) & inside[..., None]).sum((1, 2))  # [B, N]
    foreground = ((labels != BACKGROUND) & inside).sum((1, 2))
    return (areas > share * foreground[:, None]) | (class_ids == BACKGROUND)


def decide_in_chunks(
    scores: Scores, vocabulary: Vocabulary, chunks: int, rules: Rules
) -> jax.Array:
    """Class ids int32 [B, H, W] like those of `decide`, from parts of the names in turn.

    The largest score so far travels along, and the sum of the exponentials that a probability
    needs.
    """

    def best_of(names):
        def best(views):
            rows = jnp.where(rules.rows(names.class_ids)[:, None, None], views[0], -jnp.inf)
            total = jnp.zeros(rows.shape[:-1])
            if rules.softmax:
                total = jax.nn.logsumexp(rows, axis=-1)
            return rows.max(-1), names.class_ids[rows.argmax(-1)], total

        return scores.at_labels(best, scores.of(names))

    def better(so_far, found):
        (score, labels, total), (other, other_labels, other_total) = so_far, found
        wins = other > score  # the first row wins a tie
        return (
            jnp.where(wins, other, score),
            jnp.where(wins, other_labels, labels),
            jnp.logaddexp(total, other_total),
        )

    start = (-jnp.inf, -1, -jnp.inf)
    score, labels, total = _fold(best_of, start, better, _split(vocabulary, chunks))
    return rules.with_background(labels, jnp.exp(score - total) if rules.softmax else score)


def name_regions(
    scores: Scores, vocabulary: Vocabulary, chunks: int, rules: Rules, regions: jax.Array
) -> jax.Array:
    """Class ids int32 [B, H, W], of each region that with the largest mean score.

    From parts of the names in turn: of all of them only the sums over regions are kept. The
    denominators of a softmax take a pass of their own.
    """
    parts = _split(vocabulary, chunks)
    count = len(vocabulary.class_ids)
    totals = _log_totals(scores, parts, rules) if rules.softmax else []

    def sums_of(names):
        def sums(views, regions, *totals):
            if rules.softmax:
                views = [jnp.exp(v - t[..., None]) for v, t in zip(views, totals, strict=True)]
            return _region_sums(sum(views) / len(views), regions, count)

        views = scores.of(names)
        return scores.at_labels(sums, views, regions, *totals, join=lambda parts: parts.sum(0))

    sums = jax.lax.map(sums_of, parts)  # [chunks, B, R, n]
    sums = jnp.moveaxis(sums, 0, 2).reshape(*sums.shape[1:3], -1)  # [B, R, N]
    pixels = _region_sums(jnp.ones((*regions.shape, 1)), regions, count)
    class_ids = parts.class_ids.reshape(-1)
    means = jnp.where(rules.rows(class_ids)[:, None], sums / jnp.maximum(pixels, 1), -jnp.inf)
    labels = rules.with_background(class_ids[means.argmax(-1)], means.max(-1))  # [B, R]
    known = (regions >= 0) & (regions < count)
    named = jax.vmap(lambda labels, regions: labels[regions])(labels, jnp.where(known, regions, 0))
    return jnp.where(known, named, -1)


def name_proposals(
    scores: Scores, vocabulary: Vocabulary, truth: jax.Array, sizes: jax.Array
) -> list[Mixture]:
    """The maps of the proposals, weighed by the share of each class in their overlaps.

    Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation", ECCV 2022, oracle.

    Args:
      scores: of a system that proposes masks.
      vocabulary: N rows.
      truth: int32 [B, H, W], class ids; values outside [0, N) are none.
      sizes: int32 [B, 2], how much of that is picture.

    Returns:
      A mixture for each view.

    Raises:
      UserError: the scores are no sums of maps.
    """
    mixtures, count = scores.mixtures(vocabulary), len(vocabulary.class_ids)
    if mixtures is None:
        raise UserError(
            "config.eval.oracle='proposals' is for systems that name proposed masks, such as "
            "zsseg, and pictures that are taken whole (config.eval.crop=0, pamr_steps=0); "
            "take 'vocabulary' or 'masks'."
        )

    def areas(views, truth, shown):
        shown = shown[..., None]  # [B, H, W, 1]
        proposed = [((view > 0.5) & shown).astype(jnp.float32) for view in views]
        both = [_region_sums(view, truth, count).swapaxes(1, 2) for view in proposed]
        ours = [view.sum((1, 2)) for view in proposed]
        return both, ours, _region_sums(shown.astype(jnp.float32), truth, count)[..., 0]

    maps = [mixture.apart() for mixture in mixtures]
    shown = inside(sizes, truth.shape[1:])
    total = functools.partial(jnp.sum, axis=0)
    both, ours, theirs = scores.at_labels(areas, maps, truth, shown, join=total)
    weights = [
        overlap_scores(overlaps(both, ours, theirs))[..., vocabulary.class_ids]  # [B, Q, N]
        for both, ours in zip(both, ours, strict=True)
    ]
    return [x._replace(weights=own) for x, own in zip(mixtures, weights, strict=True)]


def _split(vocabulary: Vocabulary, chunks: int) -> Vocabulary:
    """The rows in parts of one size, leaves [chunks, n, ...]; the last is filled up."""
    padding = (0, -len(vocabulary.class_ids) % chunks)
    padded = Vocabulary(
        jnp.pad(vocabulary.embeddings, (padding, (0, 0))),
        jnp.pad(vocabulary.class_ids, padding, constant_values=-1),
        jnp.pad(vocabulary.seen, padding),
    )
    return jax.tree.map(lambda rows: rows.reshape(chunks, -1, *rows.shape[1:]), padded)


def _fold(function: Callable, start: Any, combine: Callable, parts: Vocabulary) -> Any:
    """Combines what a function makes of each part of the names, beginning with constants."""
    first = jax.tree.map(lambda rows: rows[0], parts)
    shapes = jax.eval_shape(function, first)
    start = jax.tree.map(
        lambda value, shape: jnp.full(shape.shape, value, shape.dtype), start, shapes
    )
    result, _ = jax.lax.scan(
        lambda so_far, names: (combine(so_far, function(names)), None), start, parts
    )
    return result


def _log_totals(scores: Scores, parts: Vocabulary, rules: Rules) -> list[jax.Array]:
    """Logarithms of the denominators of each view's softmax, [B, H, W]."""

    def totals_of(names):
        rows = rules.rows(names.class_ids)[:, None, None]

        def totals(views):
            return [jax.nn.logsumexp(jnp.where(rows, v, -jnp.inf), axis=-1) for v in views]

        return scores.at_labels(totals, scores.of(names))

    add = functools.partial(jax.tree.map, jnp.logaddexp)
    return _fold(totals_of, [-jnp.inf] * scores.views, add, parts)


def _region_sums(values: jax.Array, regions: jax.Array, count: int) -> jax.Array:
    """Sums of values [B, H, W, n] over regions int [B, H, W] with numbers in [0, count).

    Returns:
      [B, count, n].
    """
    batch, *_, width = values.shape
    known = (regions >= 0) & (regions < count)
    own = regions + count * jnp.arange(batch)[:, None, None]
    # What is in no region is sent beyond the last sum, where it falls.
    segments = jnp.where(known, own, batch * count)
    sums = jax.ops.segment_sum(values.reshape(-1, width), segments.ravel(), batch * count)
    return sums.reshape(batch, count, width)
