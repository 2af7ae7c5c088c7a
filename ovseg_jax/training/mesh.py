"""One device mesh, and where batches and parameters lie on it.

The mesh has the axes ("data", "fsdp"). Batches are split over both; parameters are replicated over
"data" and split over "fsdp" by a table of path patterns. One device is the same code on a 1×1 mesh.
"""

import math
import os
import re
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ovseg_jax.errors import UserError

AXES = ("data", "fsdp")

# First match wins; a parameter that matches none is replicated.
RULES = (
    (r"token_embedding$", P("fsdp", None)),
    (r"patch_embed/kernel$", P(None, None, None, "fsdp")),
    (r"(kernel|projection)$", P(None, "fsdp")),
)


def join_processes() -> None:
    """Makes this process one of a job; to be called before anything else asks for devices.

    JAX detects TPU pods, Slurm and Open MPI. Elsewhere JAX_COORDINATOR_ADDRESS (host:port of the
    first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.

    Raises:
        UserError: nothing tells which job this is, or the others do not answer.
    """
    count, number = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=count and int(count), process_id=number and int(number)
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed found no job to join ({error}); start it through launch/, or set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error


def create_mesh(fsdp: int = 1) -> Mesh:
    """Lays all devices out as (devices / fsdp, fsdp).

    Raises:
        UserError: the number of devices is no multiple of ``fsdp``.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise UserError(
            f"config.mesh.fsdp={fsdp} does not divide the {devices} devices; use a divisor."
        )
    return jax.make_mesh((devices // fsdp, fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of scalars, vocabularies and small parameters."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of every array of a batch: its leading axis over all devices."""
    return NamedSharding(mesh, P(AXES))


def _fits(spec: P, shape: tuple[int, ...], mesh: Mesh) -> bool:
    if len(spec) != len(shape):
        return False
    return all(
        axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=True)
    )


def param_shardings(shapes: Mapping, mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the sharding of every parameter (flat dictionary of arrays or shapes) by `RULES`.

    A parameter whose shape the rule does not divide evenly is replicated.
    """

    def sharding(path, leaf):
        spec = next((spec for pattern, spec in RULES if re.search(pattern, path)), P())
        return NamedSharding(mesh, spec if _fits(spec, leaf.shape, mesh) else P())

    return {path: sharding(path, leaf) for path, leaf in shapes.items()}


def state_shardings(shapes, params: Mapping, mesh: Mesh):
    """Shardings of a train state: a leaf shaped like the parameter of its path lies like it.

    Args:
        shapes: any tree of shapes; the optimizer's moments sit in dictionaries keyed by path.
        params: the parameters (or shapes), by path.
        mesh: the mesh.
    """
    by_path = param_shardings(params, mesh)

    def sharding(key_path, leaf):
        path = getattr(key_path[-1], "key", None) if key_path else None
        if path in params and params[path].shape == leaf.shape:
            return by_path[path]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, shapes)


def with_shardings(shapes, shardings):
    """Shapes that say where their arrays lie; what a checkpoint is restored onto."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this host's share of a batch on the devices, as one global array per key.

    Raises:
        UserError: the global batch size is no multiple of the number of devices.
    """
    sharding = batch_sharding(mesh)
    local = math.prod(mesh.devices.shape) // jax.process_count()
    for key, value in batch.items():
        if len(value) % local:
            raise UserError(
                f"a batch of {len(value)} ('{key}') does not divide over {local} devices of this "
                "host; choose config.train.batch_size as a multiple of the number of devices."
            )
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }


def to_host(tree, mesh: Mesh):
    """Whole numpy arrays, also of arrays that are split over the devices of several hosts."""
    return jax.device_get(jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree))
