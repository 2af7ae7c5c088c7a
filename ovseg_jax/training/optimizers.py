"""Optimizers over flat parameter dictionaries, one transformation per parameter group."""

import math
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from optax import contrib

from ovseg_jax.errors import UserError
from ovseg_jax.training.partition import ParamGroup, labels
from ovseg_jax.training.schedules import build_schedule

OPTIMIZERS = ("adamw", "muon", "sgd")


def _scale_to_adam_rms() -> optax.GradientTransformation:
    """Scales an orthogonal update to the root mean square that Adam's updates usually have.

    0.2·sqrt(max(fan_in, fan_out)), as in "Muon is Scalable for LLM Training" (2025), section 2.2:
    with it one weight decay and rates of Adam's order serve both kinds of parameters.
    """
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u: u * 0.2 * math.sqrt(max(u.shape)), updates)
    )


def _all_matrices(params):
    return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(), params)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), as PyTorch does."""

    def clip(updates, _):
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda u: u * factor, updates)

    return optax.stateless(clip)


def _group_transform(config, group, schedule_config, steps, kind: str):
    base = (config.muon.lr if kind == "muon" else config.lr) * group.lr
    decay = optax.add_decayed_weights(config.weight_decay * group.weight_decay)
    if kind == "sgd":  # the decay is part of the gradient
        parts = (decay, optax.trace(config.momentum))
    elif kind == "muon":
        muon = contrib.scale_by_muon(weight_dimension_numbers=_all_matrices)
        parts = (muon, _scale_to_adam_rms(), decay)
    else:
        parts = (optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps), decay)
    rate = build_schedule(schedule_config, base, steps)
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def build_optimizer(
    config: ConfigDict,
    schedule: ConfigDict,
    steps: int,
    groups: Sequence[ParamGroup],
    params: Mapping[str, jax.Array],
) -> optax.GradientTransformation:
    """Returns the optimizer of the trainable parameters.

    Args:
        config: fields ``name`` ('adamw', 'muon' or 'sgd'), ``lr``, ``weight_decay`` and
            ``clip_norm`` (0 = no clipping of the global norm). For 'adamw' and 'muon' also ``b1``,
            ``b2`` and ``eps``, and the decay is decoupled. For 'muon' ``muon.lr`` and
            ``muon.pattern``: matrices whose path contains the pattern get orthogonalised momentum
            (Jordan et al., 2024), all else AdamW. For 'sgd' ``momentum``, and the decay is added
            to the (clipped) gradient.
        schedule: see `build_schedule`.
        steps: the length of the run.
        groups: rate and decay multipliers by path.
        params: the trainable parameters (or their shapes), by path.
    """
    if config.name not in OPTIMIZERS:
        raise UserError(
            f"unknown optimizer '{config.name}'; config.optimizer.name is one of "
            f"{', '.join(OPTIMIZERS)}."
        )

    def kind(path, value):
        if config.name != "muon":
            return config.name
        return "muon" if value.ndim == 2 and re.search(config.muon.pattern, path) else "adamw"

    numbers = labels(params, groups)
    names = {path: f"{kind(path, value)}{numbers[path]}" for path, value in params.items()}
    transforms = {
        f"{name}{i}": _group_transform(config, group, schedule, steps, name)
        for i, group in enumerate(groups)
        for name in OPTIMIZERS
        if f"{name}{i}" in names.values()
    }
    optimizer = optax.multi_transform(transforms, names)
    if config.clip_norm:
        optimizer = optax.chain(clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer
