"""Weight files: a flat dictionary of arrays as safetensors, and loading one into a model."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ovseg_jax.dtypes import SAFETENSORS_DTYPES
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.params import Flat, flatten

_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


def save_weights(path: str | Path, params: Mapping, metadata: Mapping[str, str] | None = None):
    """Writes parameters (flat or nested) to a safetensors file, all of it or nothing.

    The arrays are written one after the other, so that views of a mapped file are never all in
    memory, as they would be with the safetensors package.
    """
    atomic_write(path, functools.partial(_write_safetensors, flatten(params), metadata))


def _write_safetensors(arrays: Flat, metadata: Mapping[str, str] | None, file: BinaryIO) -> None:
    header: dict[str, dict] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.size * array.dtype.itemsize
        entry = {"dtype": _DTYPE_NAMES[array.dtype], "shape": list(array.shape)}
        header[name] = entry | {"data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        file.write(np.asarray(array).tobytes())


def load_weights(path: str | Path) -> Flat:
    """Reads ``{path: array}`` from a safetensors file.

    Raises:
        UserError: the file is missing or is no (complete) safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weight file at {path}; check the path, or train or convert one first.")
    try:
        return dict(sorted(load_file(path).items()))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}); copy or create it anew."
        ) from error


def check_fit(expected: Mapping, given: Mapping, origin: str) -> None:
    """Raises a `UserError` unless both dictionaries have the same paths and shapes.

    The first few offenders of each kind are named: a checkpoint of another architecture usually
    differs in many parameters, and the first ones tell which size it has.
    """
    missing = sorted(set(expected) - set(given))
    foreign = sorted(set(given) - set(expected))
    wrong = [
        f"{path} is {tuple(given[path].shape)} instead of {tuple(expected[path].shape)}"
        for path in sorted(set(expected) & set(given))
        if tuple(given[path].shape) != tuple(expected[path].shape)
    ]
    problems = [
        f"{len(found)} parameters {what} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
        for found, what in (
            (missing, "are missing"),
            (foreign, "are not in the model"),
            (wrong, "have another shape"),
        )
        if found
    ]
    if problems:
        raise UserError(
            f"{origin} holds another architecture than the config describes: {'; '.join(problems)};"
            " use the config that made it, or another checkpoint."
        )


def load_model_json(folder: str | Path) -> dict:
    """Reads ``model.json`` of a run or model folder.

    Raises:
        UserError: the folder or the file is missing, or the file is damaged.
    """
    folder = Path(folder)
    path = folder / "model.json"
    if not folder.is_dir():
        raise UserError(
            f"no model folder at {folder}; check the path, or train or convert one first."
        )
    if not path.is_file():
        raise UserError(
            f"{folder} has no model.json; give the folder of a run or a converted model."
        )
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); create the model folder anew.") from error
