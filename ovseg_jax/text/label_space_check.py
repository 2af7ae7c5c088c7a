"""What the keys of a label space file may hold, for sentences about those that hold other things.

Only types; whether the classes, splits and folds fit each other is `LabelSpace`'s own business.
"""

from typing import Any

from ovseg_jax.errors import UserError


def check_content(content: Any, file: str) -> None:
    """Refuses what is not the content of a label space file.

    Args:
      content: what the file's JSON says.
      file: its name, for the message.

    Raises:
      UserError: no JSON object, no `classes`, or a key of another type than it should have.
    """
    if not isinstance(content, dict):
        raise UserError(f'label space file {file} should hold an object: {{"classes": ["cat", …]}}')
    if "classes" not in content:
        raise UserError(f"label space file {file} lacks the key 'classes', list the names there")
    for key, (fits, kind) in KINDS.items():
        if key in content and not fits(content[key]):
            raise UserError(f"{key!r} in label space file {file} should be {kind}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number_or_null(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_classes(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(entry) or _is_names(entry) for entry in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_folds(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_numbers, value))


KINDS = {
    "name": (_is_text, "a text"),
    "classes": (_is_classes, 'a list of names or of lists of synonyms: ["cat", ["grass", "lawn"]]'),
    "canonical": (_is_names, 'a list of names: ["cat", "grass"]'),
    "seen": (_is_numbers, "a list of positions in 'classes', counted from 0: [0, 1]"),
    "unseen": (_is_numbers, "a list of positions in 'classes', counted from 0: [2, 3]"),
    "folds": (_is_folds, "a list of lists of positions in 'classes': [[0, 1], [2, 3]]"),
    "ignore_label": (_is_number_or_null, "a whole number or null"),
    "background": (_is_number_or_null, "a position in 'classes', counted from 0, or null"),
    "reduce_zero_label": (_is_flag, "true or false"),
}
