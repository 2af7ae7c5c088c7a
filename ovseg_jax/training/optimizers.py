"""Optimizers over flat parameter dictionaries, one transformation per parameter group."""

import math
import re
from collections.abc import Mapping, Sequence

import jax
import optax
from ml_collections import ConfigDict
from optax import contrib

from ovseg_jax.errors import UserError
from ovseg_jax.training.partition import ParamGroup, labels
from ovseg_jax.training.schedules import build_schedule


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


def _group_transform(config, group, schedule_config, steps, muon: bool):
    base = (config.muon.lr if muon else config.lr) * group.lr
    scale = (
        optax.chain(
            contrib.scale_by_muon(weight_dimension_numbers=_all_matrices), _scale_to_adam_rms()
        )
        if muon
        else optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    )
    return optax.chain(
        scale,
        optax.add_decayed_weights(config.weight_decay * group.weight_decay),
        optax.scale_by_learning_rate(build_schedule(schedule_config, base, steps)),
    )


def build_optimizer(
    config: ConfigDict,
    schedule: ConfigDict,
    steps: int,
    groups: Sequence[ParamGroup],
    params: Mapping[str, jax.Array],
) -> optax.GradientTransformation:
    """Returns the optimizer of the trainable parameters.

    Args:
        config: fields ``name`` ('adamw' or 'muon'), ``lr``, ``b1``, ``b2``, ``eps``,
            ``weight_decay`` (decoupled), ``clip_norm`` (0 = no clipping of the global norm) and,
            for 'muon', ``muon.lr`` and ``muon.pattern``: matrices whose path contains the pattern
            get orthogonalised momentum (Jordan et al., 2024), all else AdamW.
        schedule: see `build_schedule`.
        steps: the length of the run.
        groups: rate and decay multipliers by path.
        params: the trainable parameters (or their shapes), by path.
    """
    if config.name not in ("adamw", "muon"):
        raise UserError(
            f"unknown optimizer '{config.name}'; config.optimizer.name is adamw or muon."
        )

    def kind(path, value):
        wants_muon = config.name == "muon" and re.search(config.muon.pattern, path)
        return "muon" if wants_muon and value.ndim == 2 else "adamw"

    numbers = labels(params, groups)
    names = {path: f"{kind(path, value)}{numbers[path]}" for path, value in params.items()}
    transforms = {
        f"{name}{i}": _group_transform(config, group, schedule, steps, muon=name == "muon")
        for i, group in enumerate(groups)
        for name in ("adamw", "muon")
        if f"{name}{i}" in names.values()
    }
    optimizer = optax.multi_transform(transforms, names)
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer
