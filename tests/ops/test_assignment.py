import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ovseg_jax.ops.assignment import NOBODY, assign

SIZES = [(9, 5), (5, 9), (7, 7), (1, 4), (4, 1), (30, 12), (12, 20)]
PROBLEMS = 40


@functools.cache
def solver():
    return jax.jit(jax.vmap(assign))


def scipy_assign(cost, targets):
    queries, matched = linear_sum_assignment(cost[:, :targets])
    result = np.full(cost.shape[1], NOBODY)
    result[matched] = queries
    return result


def costs(kind, shape, rng):
    if kind == "reals":
        return rng.uniform(0, 22, shape)
    if kind == "integers":
        return rng.integers(-2, 2, shape)
    if kind == "equal":
        return np.full(shape, 0.3)
    if kind == "twins":  # every query at least once more, somewhere
        half = np.arange(shape[1]) % max(shape[1] // 2, 1)
        return rng.uniform(0, 22, shape)[:, rng.permutation(half)]
    # Differences that sums in float32 lose.
    return rng.integers(0, 5, shape) * 0.1 + rng.integers(0, 3, shape) * 1e-8


@pytest.mark.parametrize("kind", ["reals", "integers", "equal", "twins", "near"])
@pytest.mark.parametrize("size", SIZES)
def test_the_assignment_is_scipys_ties_included(size, kind):
    rng = np.random.default_rng(0)
    cost = costs(kind, (PROBLEMS, *size), rng).astype(np.float32)
    targets = rng.integers(0, size[1] + 1, PROBLEMS)
    targets[:2] = 0, size[1]
    cost[np.arange(size[1]) >= np.repeat(targets[:, None, None], size[0], 1)] = -7  # unread
    expected = [scipy_assign(*problem) for problem in zip(cost, targets, strict=True)]
    np.testing.assert_array_equal(solver()(cost, targets), expected)


def test_a_problem_alone_is_solved_as_among_others():
    cost = np.random.default_rng(1).uniform(size=(8, 6)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(assign)(cost, 4), scipy_assign(cost, 4))


@pytest.mark.parametrize("size", [(9, 5), (5, 9), (6, 6)])
def test_forbidden_pairs_are_scipys(size):
    rng = np.random.default_rng(2)
    cost = rng.uniform(size=(PROBLEMS, *size)).astype(np.float32)
    forbidden = rng.random(cost.shape) < 0.4
    index = np.arange(min(size))
    forbidden[:, index, index] = False  # one assignment at least is left
    cost[forbidden] = np.inf
    expected = [scipy_assign(problem, size[1]) for problem in cost]
    np.testing.assert_array_equal(solver()(cost, np.full(PROBLEMS, size[1])), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pairs_without_a_finite_cost_are_never_matched(value):
    rng = np.random.default_rng(3)
    cost = rng.uniform(size=(3, 8, 4)).astype(np.float32)
    cost[0] = value
    cost[1, :, 2] = value
    cost[2, 1:] = value  # four targets want one query
    matched = np.asarray(solver()(cost, np.full(3, 4)))
    assert (matched[0] == NOBODY).all()
    rest = np.delete(matched[1], 2)
    assert matched[1, 2] == NOBODY
    np.testing.assert_array_equal(rest, scipy_assign(np.delete(cost[1], 2, 1), 3))
    assert sorted(matched[2]) == [NOBODY] * 3 + [0]


def test_enormous_costs_end():
    cost = jnp.full((5, 4), 3e38, jnp.float32)
    matched = np.asarray(jax.jit(assign)(cost, 4))
    assert len(set(matched.tolist())) == 4 and matched.min() >= 0
