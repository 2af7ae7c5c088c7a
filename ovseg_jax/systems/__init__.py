"""Systems: networks composed, with their loss, their prediction and what trains."""

import difflib
import importlib

from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError

SYSTEMS = {
    "clip": "ovseg_jax.systems.clip:create",
    "prompt_learning": "ovseg_jax.systems.prompt_learning:create",
    "training_free": "ovseg_jax.systems.training_free:create",
    "zegclip": "ovseg_jax.systems.zegclip:create",
}


def create_system(config: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
    """Builds the system that a run's config names in ``config.system.name``.

    Raises:
      UserError: no system of that name.
    """
    name = config.system.name
    if name not in SYSTEMS:
        near = difflib.get_close_matches(str(name), SYSTEMS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"unknown system {name!r}; did you mean {near!r}? Known: {', '.join(sorted(SYSTEMS))}."
        )
    module, function = SYSTEMS[name].split(":")
    return getattr(importlib.import_module(module), function)(config, rngs)
