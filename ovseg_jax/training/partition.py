"""Which parameters train, and at which rate and decay: ordered rules over parameter paths."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ParamGroup:
    """Parameters whose path contains ``pattern`` train with these multipliers.

    Attributes:
        pattern: a regular expression, searched for in the '/'-joined path.
        lr: factor on the base learning rate.
        weight_decay: factor on the base weight decay.
    """

    pattern: str
    lr: float = 1.0
    weight_decay: float = 1.0


def group_index(path: str, groups: Sequence[ParamGroup]) -> int | None:
    """Returns the first group that matches ``path``, or None for a frozen parameter."""
    return next((i for i, group in enumerate(groups) if re.search(group.pattern, path)), None)


def split_trainable(params: Mapping, groups: Sequence[ParamGroup]) -> tuple[dict, dict]:
    """Splits flat parameters into (trainable, frozen): a parameter without a group is frozen."""
    trainable, frozen = {}, {}
    for path, value in params.items():
        target = frozen if group_index(path, groups) is None else trainable
        target[path] = value
    return trainable, frozen


def labels(paths: Iterable[str], groups: Sequence[ParamGroup]) -> dict[str, int]:
    """Returns the group number of every (trainable) path."""
    return {path: group_index(path, groups) for path in paths}
