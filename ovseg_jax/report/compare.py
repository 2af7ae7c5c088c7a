"""Runs side by side: their figures, class by class, and what differs in how they were measured."""

import json
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovseg_jax.errors import UserError
from ovseg_jax.report.figures import FIGURES, GROUPS, number, percent
from ovseg_jax.tables import text_table

_SUBJECT = ("system", "weights", "checkpoint")  # what is compared; the rest is how
_PLACES = ("data.root",)  # a named data set may lie anywhere
_FIRST = [figure.key for figure in FIGURES]
_COUNTS = ("images", "unreadable", *GROUPS.values())
_ADDS = ("boundary",)  # figures of its own, and changes no other
_NEUTRAL = {"oracle": "", "antialias": False}  # of results that are older than these fields
_NAMED = 3  # differences that the refusal names
_NOT_RECORDED = "not recorded"


class Run(NamedTuple):
    """An evaluated run.

    Attributes:
      name: its folder, or its file.
      result: content of its `result.json`.
    """

    name: str
    result: Mapping


def read_run(path: str | Path) -> Run:
    """Reads a run folder or its `result.json`.

    Raises:
      UserError: there is no such file, it cannot be read, or it is no result of an evaluation.
    """
    path = Path(path)
    file = path / "result.json" if path.is_dir() else path
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {file}, evaluate the run first (--mode eval)") from None
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}), check the file") from error
    except ValueError:
        raise UserError(f"{file} is no JSON, evaluate the run again (--mode eval)") from None
    if not isinstance(result, dict) or not {"protocol", "IoU", "images"} <= result.keys():
        raise UserError(f"{file} is not the result of an evaluation, give a run's result.json")
    return Run(str(file.parent if file.name == "result.json" else file), result)


def compare(paths: Sequence[str | Path], anyway: bool = False, classes: bool = False) -> str:
    """Compares evaluated runs.

    Args:
      paths: run folders or their result files, at least two.
      anyway: whether runs of unlike protocols are compared too, with a list of what differs.
      classes: whether the classes are listed, those with the largest differences first.

    Returns:
      Tables to print.

    Raises:
      UserError: a single run, a file that cannot be read, or protocols that differ.
    """
    if len(paths) < 2:
        raise UserError("a comparison needs at least two runs, name another one")
    first, *others = runs = [read_run(path) for path in paths]
    differing = [(run.name, found) for run in others if (found := differences(first, run))]
    if differing and not anyway:
        name, found = differing[0]
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UserError(
            f"{first.name} and {name} were measured by different protocols "
            f"({'; '.join(found[:_NAMED])}{more}), give --anyway to compare them all the same"
        )
    parts = [figures_table(runs)]
    parts += [
        f"{run.name}: {run.result['images']} pictures, {run.result['unreadable']} more could not "
        "be read"
        for run in runs
        if "unreadable" in run.result
    ]
    parts += [
        f"warning of {run.name}: {run.result['warning']}" for run in runs if "warning" in run.result
    ]
    if classes:
        parts.append(class_table(runs))
    parts += [
        "\n  ".join([f"protocols of {first.name} and {name} differ:", *found])
        for name, found in differing
    ]
    return "\n\n".join(parts)


def differences(first: Run, other: Run) -> list[str]:
    """What differs in how two runs were measured, in a few words for each field."""
    ours, theirs = _protocol(first), _protocol(other)
    pairs = {
        key: (ours.get(key, _NOT_RECORDED), theirs.get(key, _NOT_RECORDED)) for key in ours | theirs
    }
    return [_difference(key, a, b) for key, (a, b) in pairs.items() if a != b]


def figures_table(runs: Sequence[Run]) -> str:
    """The figures that all runs have, in percent; a star marks the best of a column."""
    figures = [dict(_figures(run.result)) for run in runs]
    shared = [key for key in figures[0] if all(key in row for row in figures)]
    shared.sort(key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    columns = {key: [row[key] for row in figures] for key in shared}
    columns = {key: _starred(values) for key, values in columns.items() if not _all_nan(values)}
    rows = list(zip([run.name for run in runs], *columns.values(), strict=True))
    # The blank stands above the column of stars.
    return text_table(["run", *(f"{key} " for key in columns)], rows, "l" + "r" * len(columns))


def class_table(runs: Sequence[Run]) -> str:
    """IoU of the classes that all runs have, those that differ most from the first run first.

    The last column is the largest difference of another run to the first.
    """
    tables = [run.result["IoU"] for run in runs]
    values = {
        name: [number(table[name]) for table in tables]
        for name in tables[0]
        if all(name in table for table in tables)
    }
    gaps = {name: _largest_gap(row) for name, row in values.items()}
    order = sorted(gaps, key=lambda name: math.inf if math.isnan(gaps[name]) else -abs(gaps[name]))
    rows = [[name, *map(percent, values[name]), percent(gaps[name], "+")] for name in order]
    header = ["class", *(run.name for run in runs), "difference"]
    return text_table(header, rows, "l" + "r" * (len(runs) + 1))


def _protocol(run: Run) -> dict[str, Any]:
    fields = _NEUTRAL | run.result["protocol"]
    fields |= {"images": run.result["images"], "unreadable": run.result.get("unreadable", 0)}
    flat = _flat({key: value for key, value in fields.items() if key not in _SUBJECT + _ADDS})
    return {key: value for key, value in flat if key not in _PLACES}


def _flat(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _difference(key: str, ours: Any, theirs: Any) -> str:
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f"{key}: {len(ours)} against {len(theirs)} entries"
        index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        key, ours, theirs = f"{key}[{index}]", ours[index], theirs[index]
    return f"{key}: {reprlib.repr(ours)} against {reprlib.repr(theirs)}"


def _figures(result: Mapping) -> Iterator[tuple[str, float]]:
    groups = {"": result} | {f"{group} ": result.get(group, {}) for group in GROUPS}
    for prefix, group in groups.items():
        for key, value in group.items():
            if (value is None or isinstance(value, int | float)) and key not in _COUNTS:
                yield prefix + key, number(value)


def _all_nan(values: Sequence[float]) -> bool:
    return all(map(math.isnan, values))


def _starred(values: Sequence[float]) -> list[str]:
    best = max(value for value in values if not math.isnan(value))
    return [percent(value) + ("*" if value == best else " ") for value in values]


def _largest_gap(values: Sequence[float]) -> float:
    gaps = [value - values[0] for value in values[1:]]
    return max((gap for gap in gaps if not math.isnan(gap)), key=abs, default=math.nan)
