"""Parameters as plain dictionaries: between an ``nnx`` module and ``{'a/b/0/c': array}``.

Everything outside a forward pass (optimizer groups, checkpoints, conversion, sharding rules) works
on flat dictionaries whose keys are '/'-joined parameter paths. A module is put together again only
inside a jitted function.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

Flat = dict[str, Any]


def flatten(tree: Mapping) -> Flat:
    """Returns ``{path: leaf}`` of a nested dictionary, in sorted order of the paths."""
    flat: Flat = {}

    def visit(node, prefix):
        if isinstance(node, Mapping):
            for key, child in node.items():
                visit(child, (*prefix, str(key)))
        else:
            flat["/".join(prefix)] = node

    visit(tree, ())
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict:
    """Inverse of `flatten`; path parts that are digits become list positions (integers)."""
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("/"))
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Flat, Flat]:
    """Splits a module into its graph, its parameters and its other variables (statistics)."""
    graphdef, params, state = nnx.split(model, nnx.Param, ...)
    return graphdef, flatten(nnx.to_pure_dict(params)), flatten(nnx.to_pure_dict(state))


def merge_model(graphdef: nnx.GraphDef, params: Mapping, state: Mapping | None = None):
    """Builds the module again from what `split_model` returned; cheap, meant for inside ``jit``."""
    return nnx.merge(graphdef, unflatten(params), unflatten(state or {}))


def model_state(model: nnx.Module) -> Flat:
    """Returns the variables of a module that are not parameters, after a forward pass."""
    return flatten(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))))


class InitKeys:
    """The keys that `nnx.Rngs` gives for parameters, counted without being traced.

    Each step of a traced counter walks all that was traced before it, which makes building a model
    of 500 arrays take ten times as long.
    """

    def __init__(self, key: jax.Array):
        """Starts from a key."""
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def abstract_model(create: Callable[[InitKeys], nnx.Module]) -> tuple[nnx.GraphDef, Flat, Flat]:
    """Returns the graph and the shapes of a model without allocating it."""
    return split_model(nnx.eval_shape(lambda: create(InitKeys(jax.random.key(0)))))


def initialize(
    create: Callable[[InitKeys], nnx.Module], seed: int, without: Collection[str] = ()
) -> tuple[Flat, Flat]:
    """Draws parameters and other variables in one jitted call.

    Args:
        create: builds the model.
        seed: of the draw.
        without: paths that are not needed; nothing is compiled for them.
    """

    @jax.jit
    def init(key):
        parts = split_model(create(InitKeys(key)))[1:]
        return tuple({k: x for k, x in part.items() if k not in without} for part in parts)

    return init(jax.random.key(seed))


def digest(params: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all parameters with their paths."""
    sha = hashlib.sha256()
    for path, value in sorted(params.items()):
        value = np.asarray(value)
        sha.update(f"{path} {value.dtype} {value.shape} ".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()[:16]
