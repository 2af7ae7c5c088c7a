"""The devices of one process as a mesh of their own: batches are split, all else is everywhere."""

import functools
from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "batch"
Tree = TypeVar("Tree")


@functools.cache
def local_mesh() -> Mesh:
    """All devices of this process."""
    count = jax.local_device_count()
    return jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=jax.local_devices())


def on_local_devices(tree: Tree) -> Tree:
    """Copies arrays to each device of this process, once instead of at every call."""
    return jax.device_put(tree, NamedSharding(local_mesh(), P()))
