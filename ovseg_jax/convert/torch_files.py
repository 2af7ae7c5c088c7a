"""PyTorch's files: where their storages lie, and the arrays that their pickles describe.

Both formats hold a pickle in which a tensor is a view (offset, size, strides, in elements) of a
storage, and a storage is a reference to bytes elsewhere in the file:

* Archives (since PyTorch 1.6, and TorchScript always) are zip files with one folder. The pickle is
  ``data.pkl``, storage k is ``data/k``, uncompressed; ``byteorder`` says 'little' or 'big' (since
  2.1; before, it is little). TorchScript adds ``code/`` and ``constants.pkl``.
* Legacy files are five pickles (a magic number, the version 1001, facts of the machine, the
  object, the list of storage keys) and then the storages in the order of the keys, each an int64
  number of elements and the elements. They are little-endian wherever they were written.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from ovseg_jax.convert.archives import MappedFile, ZipArchive
from ovseg_jax.convert.pickles import Array, DType, Pickle, Storage, Tensor, describe, unpickle
from ovseg_jax.convert.refusals import AGAIN, Unreadable, shown

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
MAX_PICKLE_BYTES = 256 << 20
MAX_AXES = 64
# Tied weights share storages; expanded ones repeat theirs. Arrays that would take far more than
# the file are made to fill the memory of whoever copies them.
CLAIMED_SLACK, CLAIMED_RATIO = 256 << 20, 16

_NAMED = {
    "float64": ("Double", np.float64),
    "float32": ("Float", np.float32),
    "float16": ("Half", np.float16),
    "bfloat16": ("BFloat16", ml_dtypes.bfloat16),
    "int64": ("Long", np.int64),
    "int32": ("Int", np.int32),
    "int16": ("Short", np.int16),
    "int8": ("Char", np.int8),
    "uint8": ("Byte", np.uint8),
    "bool": ("Bool", np.bool_),
    "complex64": ("ComplexFloat", np.complex64),
    "complex128": ("ComplexDouble", np.complex128),
}
_UNNAMED = {  # without a storage class: PyTorch keeps their bytes in an untyped storage
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}
_TORCH_DTYPES: dict[str, np.dtype] = {
    **{f"torch.{name}": np.dtype(kind) for name, (_, kind) in _NAMED.items()},
    **{f"torch.{name}": np.dtype(kind) for name, kind in _UNNAMED.items()},
    **{f"torch.{class_}Storage": np.dtype(kind) for class_, kind in _NAMED.values()},
    **{f"torch.cuda.{class_}Storage": np.dtype(kind) for class_, kind in _NAMED.values()},
    "torch.storage.UntypedStorage": np.dtype(np.uint8),
    "torch.storage.TypedStorage": np.dtype(np.uint8),
    "torch.UntypedStorage": np.dtype(np.uint8),
    "torch.TypedStorage": np.dtype(np.uint8),
}
_NUMPY_DTYPES = {np.dtype(kind).str[1:]: np.dtype(kind) for kind in "?bBhHiIqQefdFD"} | {
    "ml_dtypes.bfloat16": np.dtype(ml_dtypes.bfloat16)
}


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a pickle describes, and where its numbers lie.

    Attributes:
      layout: what the format is called.
      content: the description.
      locate: the key of a storage -> its bytes, uint8 [bytes].
      swapped: the numbers are big-endian.
    """

    layout: str
    content: Pickle
    locate: Callable[[str], np.ndarray]
    swapped: bool = False


def open_archive(archive: ZipArchive) -> TorchFile | None:
    """Reads the pickle of a PyTorch or TorchScript archive; None = the archive is neither.

    Raises:
      Unreadable: the archive or its pickle is damaged, or the pickle is absurdly large.
    """
    names = archive.names
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if not pickles:
        return None
    if len(pickles) > 1:
        raise Unreadable(f"holds several models ({shown(', '.join(pickles))}); pack one alone")
    root = pickles[0].removesuffix("data.pkl")
    content = unpickle(io.BytesIO(archive.unpacked(pickles[0], MAX_PICKLE_BYTES)))
    script = any(name.startswith((f"{root}constants.pkl", f"{root}code/")) for name in names)
    order = b"little"
    if f"{root}byteorder" in names:
        order = archive.unpacked(f"{root}byteorder", 16).tobytes()
    if order not in (b"little", b"big"):
        raise Unreadable(f"names an unknown order of bytes; {AGAIN}")
    return TorchFile(
        layout="TorchScript archive" if script else "PyTorch archive",
        content=content,
        locate=lambda key: archive.stored(f"{root}data/{key}"),
        swapped=order == b"big",
    )


def open_pickle(file: MappedFile) -> TorchFile:
    """Reads a legacy PyTorch file, or a pickle of NumPy arrays such as detectron2's.

    Raises:
      Unreadable: the file is damaged, cut off or of an unknown version.
    """
    file.map.seek(0)
    content = unpickle(file.map)
    if content.root != LEGACY_MAGIC:
        return TorchFile("pickle of NumPy arrays", content, _nowhere)
    version, _, content, keys = (unpickle(file.map) for _ in range(4))
    if version.root != LEGACY_VERSION:
        raise Unreadable(f"is of an unknown version of PyTorch's legacy format; {AGAIN}")
    found = _legacy_storages(file, keys.root, content.storages)
    return TorchFile("legacy PyTorch file", content, lambda key: found.get(key, _NOTHING))


_NOTHING = np.empty(0, np.uint8)


def _nowhere(key: str) -> np.ndarray:
    return _NOTHING


def _legacy_storages(
    file: MappedFile, keys: object, storages: Mapping[str, Storage]
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    position = file.map.tell()
    for key in keys if isinstance(keys, list) else ():
        kind = storages[key].kind if isinstance(key, str) and key in storages else "no known class"
        if kind not in _TORCH_DTYPES:
            raise Unreadable(f"holds numbers of {shown(kind)}; save them as torch.float32")
        start = position + 8
        count = int.from_bytes(file.data[position:start].tobytes(), "little", signed=True)
        position = start + count * _TORCH_DTYPES[kind].itemsize
        if count < 0 or not start <= position <= len(file.data):
            raise Unreadable(f"is cut off within its storages; {AGAIN}")
        found[key] = file.data[start:position]
    return found


class ArrayMaker:
    """Makes arrays of the descriptions in a pickle, and checks every claim they make.

    Tensors become views of the file, read-only, with the strides they were saved with; those of
    big-endian files are views of one swapped copy per storage, and arrays of a pickle are copies.
    """

    def __init__(self, source: TorchFile, size: int):
        """Prepares for a file of `size` bytes."""
        self._source = source
        self._left = CLAIMED_SLACK + CLAIMED_RATIO * size
        self._swapped: dict[tuple[str, np.dtype], np.ndarray] = {}

    def __call__(self, name: str, value: Tensor | Array) -> np.ndarray:
        """The array of a description; `name` is for messages.

        Raises:
          Unreadable: it depends on something opaque, its storage is missing or too short, it
            reaches beyond it, or all arrays together claim more than 16 times the file.
        """
        make = self._from_tensor if isinstance(value, Tensor) else self._from_array
        try:
            return make(value)
        except _Wrong as error:
            raise Unreadable(f"holds a tensor, {shown(name)}, that {error}") from error

    def _from_tensor(self, tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        if not isinstance(storage, Storage):
            raise _Wrong(
                f"is made from {describe(storage)}, which is not run here; "
                "save the model's state_dict() as plain tensors"
            )
        dtype = _torch_dtype(tensor.dtype or storage.kind)
        owned = self._owned(storage, dtype)
        size, stride = _indices(tensor.size), _indices(tensor.stride)
        (offset,) = _indices((tensor.offset,))
        if len(size) != len(stride):
            raise _Wrong(f"has {len(size)} axes but {len(stride)} strides; {AGAIN}")
        self._claim(size, dtype)
        if 0 in size:
            return np.empty(size, dtype)
        # PyTorch keeps arbitrary strides for axes of one element.
        stride = [step if count > 1 else 0 for count, step in zip(size, stride, strict=True)]
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > len(owned):
            raise _Wrong(f"reaches beyond its storage; {AGAIN}")
        strides = [step * dtype.itemsize for step in stride]
        return np.ndarray(size, dtype, owned, offset * dtype.itemsize, strides)

    def _owned(self, storage: Storage, dtype: np.dtype) -> np.ndarray:
        itemsize = _torch_dtype(storage.kind).itemsize
        start, count = _indices((storage.start, storage.count))
        present = self._bytes(storage.key, dtype)
        if (start + count) * itemsize > len(present):
            raise _Wrong(f"claims a longer storage than {shown(storage.key)} is; {AGAIN}")
        return present[start * itemsize : (start + count) * itemsize]

    def _bytes(self, key: str, dtype: np.dtype) -> np.ndarray:
        stored = self._source.locate(key)
        if not self._source.swapped:
            return stored
        if (key, dtype) not in self._swapped:
            whole = stored[: len(stored) // dtype.itemsize * dtype.itemsize]
            self._swapped[key, dtype] = whole.view(dtype).byteswap().view(np.uint8)
        return self._swapped[key, dtype]

    def _from_array(self, array: Array) -> np.ndarray:
        dtype, shape, data = array_dtype(array), _indices(array.shape), array.data
        if dtype is None or not isinstance(data, bytes | bytearray | str):
            raise _Wrong(f"is a {describe(array)} made from {describe(data)}; save it as numbers")
        self._claim(shape, dtype)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise _Wrong(f"has {len(data)} bytes but the shape {shown(shape)}; {AGAIN}")
        try:
            content = data.encode("latin-1") if isinstance(data, str) else data
            made = np.ndarray(shape, dtype, content, order=array.order)
            made = made if array.axes is None else made.transpose(_indices(array.axes))
        except ValueError as error:
            raise _Wrong(f"is damaged ({shown(error)}); {AGAIN}") from error
        return made.byteswap() if array.dtype.order == ">" else made

    def _claim(self, size: tuple[int, ...], dtype: np.dtype) -> None:
        # Axes without elements do not excuse the others.
        self._left -= math.prod(count for count in size if count) * dtype.itemsize
        if self._left < 0:
            raise _Wrong(f"makes the tensors absurdly large for the size of the file; {AGAIN}")


class _Wrong(Exception):
    """What is wrong with a tensor, and the remedy."""


def array_dtype(array: Array) -> np.dtype | None:
    """The type of a described NumPy array; None = it does not hold numbers."""
    known = isinstance(array.dtype, DType) and isinstance(array.dtype.code, str)
    return _NUMPY_DTYPES.get(array.dtype.code) if known else None


def _torch_dtype(name: str) -> np.dtype:
    if name not in _TORCH_DTYPES:
        raise _Wrong(
            f"is stored as {shown(name)}, which has no counterpart here; save it as torch.float32"
        )
    return _TORCH_DTYPES[name]


def _indices(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_AXES:
        raise _Wrong(f"has no proper size; {AGAIN}")
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in values):
        raise _Wrong(f"has negative or absurd sizes; {AGAIN}")
    return tuple(values)
