"""Learning rates as functions of the step."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError


def poly(base: float, steps: int, power: float, min_lr: float):
    """Polynomial decay from ``base`` to ``min_lr`` over ``steps`` (mmcv's 'poly' policy)."""

    def schedule(step):
        # The difference of integers first: 1 - step / steps loses digits towards the end.
        fraction = jnp.clip((steps - step) / steps, 0.0, 1.0)
        return (base - min_lr) * fraction**power + min_lr

    return schedule


def cosine(base: float, steps: int, min_lr: float):
    """Half a cosine from ``base`` to ``min_lr`` over ``steps``."""

    def schedule(step):
        # (1 + cos(πx)) / 2, which would lose its digits towards the end.
        rest = jnp.clip((steps - step) / steps, 0.0, 1.0)
        return min_lr + (base - min_lr) * jnp.sin(0.5 * jnp.pi * rest) ** 2

    return schedule


def constant(base: float):
    """The base rate at every step."""
    return lambda step: jnp.full_like(step, base, dtype=jnp.float32)


def linear_warmup(schedule, warmup_steps: int, ratio: float):
    """Scales the first steps of a schedule linearly from ``ratio`` to 1 (mmcv's 'linear')."""

    def warmed(step):
        return schedule(step) * (ratio + (1.0 - ratio) * jnp.clip(step / warmup_steps, 0.0, 1.0))

    return warmed if warmup_steps else schedule


def constant_warmup(schedule, base: float, warmup_steps: int, ratio: float):
    """The first steps take ``ratio`` of the base rate (detectron2's 'constant')."""
    return lambda step: jnp.where(step < warmup_steps, ratio * base, schedule(step))


def build_schedule(config: ConfigDict, base: float, steps: int):
    """Returns ``step -> rate`` for one parameter group.

    Args:
        config: fields ``name`` ('poly', 'cosine' or 'constant'), ``power``, ``min_lr`` (absolute,
            not multiplied by the group's factor), ``warmup_steps``, ``warmup_ratio`` and, where
            the ratio shall not grow, ``warmup`` ('linear' or 'constant').
        base: the group's own base rate.
        steps: the length of the run.
    """
    if config.name == "poly":
        schedule = poly(base, steps, config.power, config.min_lr)
    elif config.name == "cosine":
        schedule = cosine(base, steps, config.min_lr)
    elif config.name == "constant":
        schedule = constant(base)
    else:
        raise UserError(
            f"unknown schedule '{config.name}'; config.schedule.name is poly, cosine or constant."
        )
    warmup = config.get("warmup", "linear")  # runs of before this field existed are linear
    if warmup == "constant":
        return constant_warmup(schedule, base, config.warmup_steps, config.warmup_ratio)
    if warmup != "linear":
        raise UserError(f"unknown warmup '{warmup}'; config.schedule.warmup is linear or constant.")
    return linear_warmup(schedule, config.warmup_steps, config.warmup_ratio)
