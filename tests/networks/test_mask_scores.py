"""Scores of queries, regions and pixels by their defining properties."""

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.networks.clip import normalize
from ovseg_jax.networks.mask_scores import (
    cosine_logits,
    name_scores,
    pseudo_labels,
    query_probabilities,
    region_probabilities,
    with_no_object,
)

QUERIES, NAMES = 5, 4
VALID = jnp.asarray([True, True, False, True, True])
SEEN = jnp.asarray([True, False, True, False])
REAL = jnp.ones(NAMES, bool)


def logits(seed):
    return 3 * jax.random.normal(jax.random.key(seed), (QUERIES, NAMES + 1))


def test_logits_are_scaled_cosines():
    names = normalize(jax.random.normal(jax.random.key(0), (NAMES, 6)))
    text = with_no_object(names, jax.random.normal(jax.random.key(1), (1, 6)))
    np.testing.assert_allclose(jnp.linalg.norm(text, axis=1), 1, atol=1e-6)
    found = cosine_logits(7.0 * text, text)
    np.testing.assert_allclose(jnp.diagonal(found), 100, atol=1e-3)


def test_no_object_competes_for_queries_and_not_for_regions():
    query, region = (
        query_probabilities(logits(0), REAL),
        region_probabilities(logits(0), VALID, REAL),
    )
    assert (query.sum(-1) < 1).all()
    np.testing.assert_allclose(region[VALID].sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(region[~VALID], 1)


def test_the_ensemble_trusts_queries_for_what_was_seen():
    query, region = (
        query_probabilities(logits(0), REAL),
        region_probabilities(logits(1), VALID, REAL),
    )
    scores = name_scores(logits(0), logits(1), VALID, SEEN, REAL, 0.7)
    np.testing.assert_allclose(scores[:, 0], query[:, 0] ** 0.7 * region[:, 0] ** 0.3, rtol=1e-5)
    np.testing.assert_allclose(scores[:, 1], query[:, 1] ** 0.3 * region[:, 1] ** 0.7, rtol=1e-5)
    alone = name_scores(logits(0), logits(1), VALID, SEEN, REAL, 0.0)
    np.testing.assert_array_equal(alone[VALID], region[VALID])
    assert not alone[~VALID].any()


def test_padded_names_change_nothing():
    def padded(rows):  # padding stands between the names and no object
        return jnp.concatenate([rows[:, :-1], jnp.full((QUERIES, 3), 50.0), rows[:, -1:]], axis=1)

    seen, real = (jnp.pad(x, (0, 3)) for x in (SEEN, REAL))
    for weight in (0.7, 0.0, 1.0):
        expected = name_scores(logits(0), logits(1), VALID, SEEN, REAL, weight)
        scores = name_scores(padded(logits(0)), padded(logits(1)), VALID, seen, real, weight)
        np.testing.assert_allclose(scores[:, :NAMES], expected, rtol=1e-6)
        assert not scores[:, NAMES:].any()


def test_pseudo_labels_keep_the_truth_of_seen_classes():
    scores = jnp.asarray([[[5.0, 1.0, 2.0, 3.0], [0.0, 2.0, 3.0, 0.1], [0.0, 0.0, 9.0, 0.0]]])
    label = jnp.asarray([[0, 255, 3]])
    found = pseudo_labels(scores, label, SEEN)
    np.testing.assert_array_equal(found, [[0, 1, 1]])  # of the unseen, 1 and 3, the likelier
    np.testing.assert_array_equal(pseudo_labels(scores, label, SEEN, prior=False), [[0, 2, 2]])
    rejected = pseudo_labels(scores, label, SEEN, threshold=0.2)
    np.testing.assert_array_equal(rejected, [[0, 1, 4]])
