"""Writes files as PyTorch writes them, without PyTorch.

Python's own pickler does the work; stand-ins write the names, calls and references of PyTorch.
"""

import dataclasses
import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
CLASSES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}


@dataclasses.dataclass(frozen=True)
class Named:
    """A class or function that is only named: the opcode GLOBAL."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """The opcode REDUCE."""

    function: object
    arguments: object


@dataclasses.dataclass
class Instance:
    """The opcodes NEWOBJ and BUILD: an object of a class, and its state."""

    kind: object
    state: object


@dataclasses.dataclass(frozen=True)
class Raw:
    """Opcodes as they are, which leave one value."""

    opcodes: bytes


@dataclasses.dataclass(eq=False)
class Storage:
    """Numbers in one row.

    Attributes:
      values: [n].
      key: what the file calls it; None = its number.
      kind: its class; None = that of the type.
      count: the elements that the file claims; None = those it has.
      reference: what to write in place of the whole reference.
    """

    values: np.ndarray
    key: str | None = None
    kind: Named | None = None
    count: int | None = None
    reference: object = None


REBUILD = Named("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Named("torch._utils", "_rebuild_parameter")
ORDERED = Named("collections", "OrderedDict")


def view(storage, offset, size, stride, function=REBUILD, *more):
    more = more or (False, Call(ORDERED, ()))
    return Call(function, (storage, offset, tuple(size), tuple(stride), *more))


def tensor(values):
    """A tensor with a storage of its own."""
    values = np.asarray(values)
    stride = [step // values.itemsize for step in values.strides]
    return view(Storage(values.reshape(-1)), 0, values.shape, stride)


def parameter(values):
    return Call(PARAMETER, (tensor(values), True, Call(ORDERED, ())))


def state_dict(**tensors):
    """An OrderedDict as modules give it, with its attribute of versions."""
    state = OrderedDict(tensors)
    state._metadata = OrderedDict({"": {"version": 1}})
    return state


def script(name, **attributes):
    """A TorchScript module with the flags it always has."""
    state = {"training": False, "_is_full_backward_hook": None, **attributes}
    return Instance(Named(f"__torch__.{name}", "Module"), state)


class _Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, stream, legacy):
        super().__init__(stream, protocol=2)
        self.legacy = legacy
        self.storages = {}
        self.kept = []

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        if value.reference is not None:
            return value.reference
        if value.key is None:
            value.key = str(len(self.storages))
        self.storages[value.key] = value
        kind = value.kind or self.named("torch", CLASSES[str(value.values.dtype)])
        count = len(value.values) if value.count is None else value.count
        return ("storage", kind, value.key, "cpu", count, *([None] if self.legacy else []))

    def named(self, module, name):
        self.kept.append(Named(module, name))  # pickles remember by identity
        return self.kept[-1]

    def save_named(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    def save_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)
        self.memoize(value)

    def save_instance(self, value):
        self.save(value.kind)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.memoize(value)
        self.save(value.state)
        self.write(pickle.BUILD)

    def save_raw(self, value):
        self.write(value.opcodes)

    dispatch |= {Named: save_named, Call: save_call, Instance: save_instance, Raw: save_raw}


def pickled(value, legacy=False):
    """The pickle of a value, and its storages by key."""
    stream = io.BytesIO()
    pickler = _Pickler(stream, legacy)
    pickler.dump(value)
    return stream.getvalue(), pickler.storages


def archive_members(value, byteorder="little", root="archive"):
    """What a zip file of PyTorch 2 has in it, `{name: bytes}`."""
    content, storages = pickled(value)
    members = {f"{root}/data.pkl": content, f"{root}/byteorder": byteorder.encode()}
    for key, storage in storages.items():
        values = storage.values
        swapped = values.byteswap() if byteorder == "big" else values
        members[f"{root}/data/{key}"] = swapped.tobytes()
    return members | {f"{root}/version": b"3\n"}


def zipped(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def archive(value, **options):
    """The bytes of torch.save(value)."""
    return zipped(archive_members(value, **options))


def script_archive(module):
    """The bytes of torch.jit.save(module)."""
    extra = {"archive/constants.pkl": b"\x80\x02).", "archive/code/__torch__.py": b"class Module:"}
    return zipped(archive_members(module) | extra)


def legacy(value, counts=None, keys=None, version=VERSION):
    """The bytes of torch.save(value, _use_new_zipfile_serialization=False).

    Args:
      value: what to save.
      counts: elements that storages claim in the list at the end, by key.
      keys: in place of the list of storage keys.
      version: of the format.
    """
    sizes = {"short": 2, "int": 4, "long": 4}
    facts = {"protocol_version": version, "little_endian": True, "type_sizes": sizes}
    content, storages = pickled(value, legacy=True)
    parts = [pickle.dumps(part, protocol=2) for part in (MAGIC, version, facts)]
    keys = sorted(storages) if keys is None else keys
    parts += [content, pickle.dumps(keys, protocol=2)]
    for key in sorted(storages):
        values = storages[key].values
        count = (counts or {}).get(key, len(values))
        parts += [struct.pack("<q", count), values.tobytes()]
    return b"".join(parts)
