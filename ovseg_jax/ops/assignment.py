"""Minimum-cost assignment on the device, with the results of `scipy.optimize`.

The algorithm is the one behind `scipy.optimize.linear_sum_assignment` (Crouse, "On implementing 2D
rectangular assignment algorithms", 2016): the rows of the shorter side are assigned one after the
other along a shortest augmenting path. Where several assignments are optimal, the order in which
columns are looked at decides, so it is kept. SciPy adds in float64; numbers are here pairs of
float32 whose sum is the value (Dekker, 1971), which leaves 48 bits.

A step scans at most one row and sets at most one edge, and under `vmap` every problem is at a step
of its own: many problems take as long as the one with most steps, not as the sum over rows of what
the slowest needs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NOBODY = -1
# Whether all problems are solved is asked after so many steps: the answer has to come from all
# devices of a sharded batch, and on a GPU to the host.
_STEPS_AT_ONCE = 16


class _Number(NamedTuple):
    """The unevaluated sum high + low, with high the float32 nearest to it."""

    high: jax.Array
    low: jax.Array


def _add(a: _Number, b: _Number) -> _Number:
    total = a.high + b.high
    part = total - a.high
    error = (a.high - (total - part)) + (b.high - part)  # of the sum, exactly
    error += a.low + b.low
    high = total + error
    return _Number(high, error - (high - total))


def _subtract(a: _Number, b: _Number) -> _Number:
    return _add(a, _Number(-b.high, -b.low))


def _less(a: _Number, b: _Number) -> jax.Array:
    return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low))


def _where(condition: jax.Array, a: _Number, b: _Number) -> _Number:
    return _Number(*(jnp.where(condition, x, y) for x, y in zip(a, b, strict=True)))


def _exactly(x: jax.Array | float) -> _Number:
    x = jnp.asarray(x, jnp.float32)
    return _Number(x, jnp.zeros_like(x))


class _State(NamedTuple):
    """Where a problem of R rows and C columns stands.

    Attributes:
      row: the row that is being assigned; all before it are done.
      scanned: the row whose edges are looked at next.
      base: length of the path to `scanned`, less the dual variable of that row.
      distance: [C], length of the shortest path to each column.
      parent: [C], the row before a column on that path.
      order: [C], place in SciPy's list of the columns whose path is not final, which decides about
        ties; negative for the others.
      dual: [C], dual variables of the columns. That of an assigned row follows from its edge, which
        is tight.
      row_of: [C], the row that a column is assigned to.
      column_of: [R], the inverse.
      end: the column that is to change its row next, NOBODY while a path is being sought.
    """

    row: jax.Array
    scanned: jax.Array
    base: _Number
    distance: _Number
    parent: jax.Array
    order: jax.Array
    dual: _Number
    row_of: jax.Array
    column_of: jax.Array
    end: jax.Array


def _search(row: jax.Array, count: int, columns: jax.Array) -> dict:
    """The fields of a state of `count` columns in which a path from `row` begins to be sought."""
    return dict(
        row=row,
        scanned=row,
        base=_exactly(0.0),
        distance=_exactly(jnp.full(count, jnp.inf)),
        order=columns - 1 - jnp.arange(count),  # SciPy's list begins with the last column
        end=jnp.int32(NOBODY),
    )


def _nearest_column(state: _State) -> tuple[jax.Array, _Number]:
    """The listed column with the shortest path, and its length (infinite if none is reached).

    Of equally near columns the last free one of the list wins, otherwise the first of the list.
    """
    listed = state.order >= 0
    high = jnp.where(listed, state.distance.high, jnp.inf)
    nearest = high.min()
    low = jnp.where(high == nearest, state.distance.low, jnp.inf)
    length = _Number(nearest, low.min())
    equal = listed & (low == length.low)
    count = len(high)
    rank = jnp.where(state.row_of == NOBODY, count + state.order, -state.order)
    return jnp.where(equal, rank, -count).argmax(), length


def _scan(state: _State, cost: jax.Array, columns: jax.Array) -> tuple[_State, jax.Array]:
    """Looks at the edges of a row and takes the nearest column; whether there is one."""
    index = jnp.arange(cost.shape[1])
    edges = cost[state.scanned]
    length = _subtract(_add(state.base, _exactly(edges)), state.dual)
    better = (state.order >= 0) & jnp.isfinite(edges) & _less(length, state.distance)
    state = state._replace(
        distance=_where(better, length, state.distance),
        parent=jnp.where(better, state.scanned, state.parent),
    )
    column, nearest = _nearest_column(state)
    # SciPy fills the gap in its list with the last entry.
    last = state.order == state.order.max()
    order = jnp.where(last, state.order[column], state.order)
    order = jnp.where(index == column, NOBODY, order)
    owner = state.row_of[column]
    tight = _subtract(_exactly(cost[owner, column]), jax.tree.map(lambda x: x[column], state.dual))
    found = jnp.isfinite(nearest.high)
    at_end = found & (owner == NOBODY)
    final = (order < 0) & (index < columns)
    shift = _subtract(nearest, state.distance)
    return state._replace(
        order=order,
        scanned=owner,
        base=_subtract(nearest, tight),
        dual=_where(at_end & final, _subtract(state.dual, shift), state.dual),
        end=jnp.where(at_end, column.astype(jnp.int32), NOBODY),
    ), found


def _set_edge(state: _State) -> tuple[_State, jax.Array]:
    """Assigns the column at the end of the path to the row before it; whether that was all."""
    row = state.parent[state.end]
    freed = state.column_of[row]  # NOBODY where the path begins
    walking = state.end != NOBODY
    row_of = jnp.where(jnp.arange(len(state.row_of)) == state.end, row, state.row_of)
    chosen = walking & (jnp.arange(len(state.column_of)) == row)
    return state._replace(
        row_of=row_of,
        column_of=jnp.where(chosen, state.end, state.column_of),
        end=jnp.where(walking, freed, NOBODY),
    ), walking & (freed == NOBODY)


def _choose(condition: jax.Array, a: _State, b: _State) -> _State:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _step(state: _State, cost: jax.Array, rows: jax.Array, columns: jax.Array) -> _State:
    """Scans a row unless a path has been found, then sets its next edge; nothing after the end."""
    walking = state.end != NOBODY
    scanned, found = _scan(state, cost, columns)
    moved, complete = _set_edge(_choose(walking, state, scanned))
    next_row = complete | ~(walking | found)
    search = _search(state.row + 1, cost.shape[1], columns)
    moved = _choose(next_row, moved._replace(**search), moved)
    return _choose(state.row < rows, moved, state)


def _assign_rows(cost: jax.Array, rows: jax.Array, columns: jax.Array) -> _State:
    """Assigns the first `rows` of R rows, each to one of the first `columns` of C columns."""
    count = cost.shape[1]
    nobody = jnp.full(count, NOBODY, jnp.int32)
    start = _State(
        parent=nobody,
        dual=_exactly(jnp.zeros(count)),
        row_of=nobody,
        column_of=jnp.full(len(cost), NOBODY, jnp.int32),
        **_search(jnp.int32(0), count, columns),
    )
    return jax.lax.while_loop(
        lambda state: state.row < rows,
        lambda state: jax.lax.fori_loop(
            0, _STEPS_AT_ONCE, lambda _, state: _step(state, cost, rows, columns), state
        ),
        start,
    )


def assign(cost: jax.Array, targets: jax.Array) -> jax.Array:
    """Gives targets a query each, or queries a target each where targets are more, at least cost.

    Equal to `scipy.optimize.linear_sum_assignment(cost[:, :targets])`, also where several
    assignments are optimal. Pairs of infinite or undefined cost are never matched; a target that
    has no other stays without a query, where SciPy raises an error.

    Args:
      cost: float32 [Q, K].
      targets: int, how many of the K columns are targets; data, not shape.

    Returns:
      int32 [K], the query of each target, NOBODY (-1) for targets without one.
    """
    queries, slots = cost.shape
    targets = jnp.asarray(targets, jnp.int32)
    cost = cost.astype(jnp.float32)
    if slots < queries:
        return _assign_rows(cost.T, targets, jnp.int32(queries)).column_of
    # SciPy transposes if targets are fewer than queries, which only the data tell.
    fewer = targets < queries
    transposed = jnp.pad(cost[:, :queries].T, ((0, 0), (0, slots - queries)))
    state = _assign_rows(
        jnp.where(fewer, transposed, cost),
        jnp.minimum(targets, queries),
        jnp.maximum(targets, queries),
    )
    of_rows = jnp.pad(state.column_of, (0, slots - queries), constant_values=NOBODY)
    return jnp.where(fewer, of_rows, state.row_of)
