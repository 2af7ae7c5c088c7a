"""What an evaluation leaves: its protocol, the file of its figures, a table of their means."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ovseg_jax.files import atomic_write
from ovseg_jax.inference import Protocol
from ovseg_jax.report.figures import GROUPS, figures, percent
from ovseg_jax.tables import text_table
from ovseg_jax.text.label_space import LabelSpace


def describe_protocol(label_space: LabelSpace, protocol: Protocol) -> dict:
    """The part of a result's protocol that names classes, windows and rules."""
    names, background = label_space.unique_names, label_space.background
    return {
        "label_space": label_space.name,
        "classes": list(names),
        # Lists where a class has several: a single query may hold commas.
        "queries": [words[0] if len(words) == 1 else list(words) for words in label_space.classes],
        "seen": [names[index] for index in label_space.seen],
        "unseen": [names[index] for index in label_space.unseen],
        "background": None if background is None else names[background],
        "ignore_label": label_space.ignore_label,
        **dataclasses.asdict(protocol),
    }


def write_result(path: Path, result: Mapping) -> Path:
    """Writes figures as JSON, whole or not at all; NaN becomes null, as JSON has no NaN.

    Returns:
      The path of the file.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    text = json.dumps(_without_nan(result), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text.encode() + b"\n")
    return path


def _without_nan(value):
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return value


def scalars(result: Mapping) -> dict[str, float]:
    """The means of a result by name, those of a group as ``regions/top_1``."""
    named = dict(result)
    for group in GROUPS:
        named |= {f"{group}/{name}": value for name, value in result.get(group, {}).items()}
    return {name: value for name, value in named.items() if isinstance(value, float)}


def summary_table(result: Mapping) -> str:
    """The means of a result as a short table, before and after training where both are known."""
    protocol = result["protocol"]
    rows = {"training-free": result.get("training_free"), protocol["system"]: result}
    shown = figures(result)
    cells = [
        [name, *(percent(row.get(figure.key)) for figure in shown)]
        for name, row in rows.items()
        if row
    ]
    kind = "episodes" if "foreground" in protocol else "pictures"
    heading = f"{result['images']} {kind}, percent, {protocol['metrics']}"
    if "unreadable" in result:
        heading += f", {result['unreadable']} more could not be read"
    if protocol["oracle"]:
        heading += f", with the oracle '{protocol['oracle']}'"
    header = ["", *(figure.label for figure in shown)]
    lines = [heading, text_table(header, cells, "l" + "r" * len(shown))]
    for group in GROUPS:
        entries = result.get(group, {}).items()
        named = (f"{k} {v if isinstance(v, int) else percent(v)}" for k, v in entries)
        if entries:
            lines.append(f"{group}: {', '.join(named)}")
    if "warning" in result:
        lines.append(f"warning: {result['warning']}")
    return "\n".join(lines)
