"""Files that hold named arrays and nothing else: safetensors and NumPy's npz.

A safetensors file is an unsigned 64-bit length (little-endian), a JSON object of that many bytes,
``{name: {"dtype": …, "shape": […], "data_offsets": [begin, end]}}`` (and ``"__metadata__"``, text
by text), and the elements, row-major and little-endian, which the tensors must fill without gap or
overlap. An npz file is a zip archive of npy files: a magic, the text of a Python dictionary with
type, order and shape, and the elements.
"""

import io
import json
import math

import numpy as np

from ovseg_jax.convert.archives import MappedFile, ZipArchive
from ovseg_jax.convert.refusals import AGAIN, Unreadable, shown
from ovseg_jax.dtypes import SAFETENSORS_DTYPES

MAX_JSON_BYTES = 16 << 20  # about 130,000 tensors
MAX_NPY_HEADER = 1 << 17
NUMBERS = frozenset("biufc")  # kinds of NumPy types

_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_safetensors(file: MappedFile) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, as read-only views, in the order of its header.

    Raises:
      Unreadable: the file is cut off, its header is no such JSON, or its offsets are wrong.
    """
    length = int.from_bytes(file.data[:8].tobytes(), "little")
    if length > MAX_JSON_BYTES:
        raise Unreadable(f"has an absurdly long safetensors header; {AGAIN}")
    if 8 + length > len(file.data):
        raise Unreadable(f"is cut off within its safetensors header; {AGAIN}")
    header = read_json(file.data[8 : 8 + length])
    header.pop("__metadata__", None)
    body, arrays, spans = file.data[8 + length :], {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _safe_entry(name, entry)
        if not begin <= end <= len(body) or math.prod(shape) * dtype.itemsize != end - begin:
            raise Unreadable(f"gives tensor {shown(name)} a wrong place or size; {AGAIN}")
        spans.append((begin, end))
        arrays[name] = np.ndarray(shape, dtype, body[begin:end])
    stops = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != stops[:-1] or stops[-1] != len(body):
        raise Unreadable(f"has tensors that overlap, or bytes that belong to none; {AGAIN}")
    return arrays


def _safe_entry(name: str, entry: object) -> tuple[np.dtype, tuple[int, ...], int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]}:
            if dtype not in SAFETENSORS_DTYPES:
                raise Unreadable(
                    f"stores {shown(name)} as {shown(dtype)}, which has no counterpart here; "
                    "save it as F32"
                )
            numbers = (*shape, begin, end)
            lawful = len(shape) <= 64 and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
            if lawful and math.prod(n for n in shape if n) < 1 << 48:
                return SAFETENSORS_DTYPES[dtype], tuple(shape), begin, end
    raise Unreadable(f"describes tensor {shown(name)} wrongly; {AGAIN}")


def read_json(content: np.ndarray) -> dict:
    """Reads a JSON object of limited size in which no name occurs twice.

    Args:
      content: uint8 [bytes].

    Raises:
      Unreadable: it is none.
    """
    if len(content) > MAX_JSON_BYTES:
        raise Unreadable(f"has an absurdly long table of tensors; {AGAIN}")
    try:
        found = json.loads(content.tobytes().decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"has a damaged table of tensors ({shown(error)}); {AGAIN}") from error
    if not isinstance(found, dict):
        raise Unreadable(f"has no table of tensors; {AGAIN}")
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def read_npz(archive: ZipArchive) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of numbers in an npz file, and the names and types of what else it holds.

    Uncompressed arrays are read-only views of the file; big-endian ones are copies.

    Raises:
      Unreadable: an array is cut off, damaged, absurdly large or of Python objects.
    """
    arrays, others = {}, []
    for member in archive.names:
        name = member.removesuffix(".npy")
        if name == member:
            others.append(f"{shown(name)}: no array")
            continue
        array = _npy(name, archive.unpacked(member))
        if array.dtype.kind in NUMBERS:
            arrays[name] = array
        else:
            others.append(f"{shown(name)}: NumPy array of {shown(array.dtype)}")
    return arrays, tuple(others)


def _npy(name: str, content: np.ndarray) -> np.ndarray:
    stream = io.BytesIO(content[:MAX_NPY_HEADER].tobytes())
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = _NPY_HEADERS[version](stream)
    except Exception as error:  # numpy evaluates the header and raises many kinds
        raise Unreadable(f"has a damaged array {shown(name)} ({shown(error)}); {AGAIN}") from error
    if dtype.hasobject:
        raise Unreadable(
            f"keeps Python objects in {shown(name)}, which are not read; save it without"
        )
    body, size = content[stream.tell() :], math.prod(shape) * dtype.itemsize
    if any(count < 0 for count in shape) or size != len(body):
        raise Unreadable(f"gives array {shown(name)} a wrong size; {AGAIN}")
    try:
        array = np.ndarray(shape, dtype, body, order="F" if fortran else "C")
    except ValueError as error:
        raise Unreadable(f"has a damaged array {shown(name)} ({shown(error)}); {AGAIN}") from error
    return array.astype(dtype.newbyteorder("=")) if dtype.byteorder == ">" else array
