"""Label spaces shown: a table of all packaged ones, a page and a JSON object of a single one."""

import dataclasses
import json
import re
import textwrap

from ovseg_jax.tables import text_table
from ovseg_jax.text.label_space import LabelSpace, label_space_names, load_label_space

_NONE = "–"
_WIDTH = 100  # of notes, in letters


def summary(name: str) -> dict:
    """One label space in a few figures.

    Args:
      name: a packaged name or a file.

    Returns:
      `name`, `classes` and `queries` (their numbers), `split` (of the classes, "" without one),
      `ignore_label`, `background` (name of that class or None), `reduce_zero_label` and
      `description`.

    Raises:
      UserError: as `load_label_space`.
    """
    space = load_label_space(name)
    background = space.background
    return {
        "name": name,
        "classes": len(space),
        "queries": sum(map(len, space.classes)),
        "split": _split(space),
        "ignore_label": space.ignore_label,
        "background": None if background is None else space.display_names[background],
        "reduce_zero_label": space.reduce_zero_label,
        "description": _description(name, space),
    }


def listing() -> str:
    """A table of all packaged label spaces."""
    rows = []
    for entry in map(summary, label_space_names()):
        numbers = [str(entry[key]) for key in ("classes", "queries")]
        zero = _yes(entry["reduce_zero_label"])
        marks = [str(entry["ignore_label"]), entry["background"] or _NONE, zero]
        split = entry["split"] or _NONE
        rows.append([entry["name"], *numbers, split, *marks, entry["description"]])
    header = ("name", "classes", "queries", "split", "ignore", "background", "reduce zero", "what")
    return text_table(header, rows, "lrrlrlll")


def listing_json() -> str:
    """`summary` of all packaged label spaces as a JSON list."""
    return json.dumps(list(map(summary, label_space_names())), indent=1, ensure_ascii=False)


def page(name: str) -> str:
    """A label space for a reader: what it is, and its classes in their order.

    Raises:
      UserError: as `load_label_space`.
    """
    space = load_label_space(name)
    facts = summary(name)
    split = f", {facts['split']}" if facts["split"] else ""
    lines = [
        f"{name}: {facts['description']}",
        f"{facts['classes']} classes{split}; {facts['queries']} queries",
        f"background: {facts['background'] or _NONE}; ignore label: {space.ignore_label}; "
        f"reduce zero label: {_yes(space.reduce_zero_label)}",
        "",
        _class_table(space),
    ]
    for key in ("notes", "source"):
        if key in space.extra:
            lines += ["", textwrap.fill(f"{key.capitalize()}: {space.extra[key]}", _WIDTH)]
    return "\n".join(lines)


def page_json(name: str) -> str:
    """A label space as the content of a file that `load_label_space` reads.

    Raises:
      UserError: as `load_label_space`.
    """
    content = dataclasses.asdict(load_label_space(name))
    content |= content.pop("extra")
    entries = (
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in content.items()
    )
    return "{\n" + ",\n".join(entries) + "\n}"


def _yes(flag: bool) -> str:
    return "yes" if flag else _NONE


def _split(space: LabelSpace) -> str:
    if space.folds:
        return f"{len(space.folds)} folds"
    if space.seen or space.unseen:
        return f"{len(space.seen)} seen + {len(space.unseen)} unseen"
    return ""


def _description(name: str, space: LabelSpace) -> str:
    # A file that only repeats its name says in its notes what it is.
    title = space.name if space.name != name else str(space.extra.get("notes", name))
    return textwrap.shorten(re.split("[.:] ", title)[0], 72, placeholder=" …")


def _class_table(space: LabelSpace) -> str:
    marks = dict.fromkeys(space.seen, "seen") | dict.fromkeys(space.unseen, "unseen")
    folds = {index: str(number) for number, fold in enumerate(space.folds) for index in fold}
    pairs = list(zip(space.display_names, space.classes, strict=True))
    columns = {
        "index": [str(index) for index in range(len(space))],
        "class": list(space.display_names),
        # Apart by a bar, because a query may hold commas itself ("road, route").
        "queries": ["" if words == (name,) else " | ".join(words) for name, words in pairs],
        "split": [marks.get(index, "") for index in range(len(space))],
        "fold": [folds.get(index, "") for index in range(len(space))],
    }
    columns = {key: cells for key, cells in columns.items() if any(cells)}
    rows = list(zip(*columns.values(), strict=True))
    return text_table(list(columns), rows, "r" + "l" * (len(columns) - 1))
