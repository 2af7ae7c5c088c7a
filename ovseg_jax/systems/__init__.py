"""Systems: networks composed, with their loss, their prediction and what trains."""

import importlib

from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError, nearest

SYSTEMS = {
    "clip": "ovseg_jax.systems.clip:create",
    "prompt_learning": "ovseg_jax.systems.prompt_learning:create",
    "training_free": "ovseg_jax.systems.training_free:create",
    "zegclip": "ovseg_jax.systems.zegclip:create",
    "zsseg": "ovseg_jax.systems.zsseg:create",
    "zsseg_pixels": "ovseg_jax.systems.zsseg_pixels:create",
}


def create_system(config: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
    """Builds the system that a run's config names in ``config.system.name``.

    Raises:
      UserError: no system of that name.
    """
    name = config.system.name
    if name not in SYSTEMS:
        raise UserError(f"unknown system {name!r}; {nearest(str(name), SYSTEMS)}")
    module, function = SYSTEMS[name].split(":")
    return getattr(importlib.import_module(module), function)(config, rngs)
