"""Pickles read as data: nothing that they name is imported, called or built.

A pickle is a program for a stack machine, and what it names may be any function of the system. The
machine here knows plain values (None, numbers, text, bytes, lists, tuples, dictionaries) and keeps
descriptions of what PyTorch and NumPy would build: tensors, arrays, TorchScript modules. Whatever
else a pickle asks for becomes an `Opaque` that remembers the name, and so does all that is asked of
an `Opaque`. Instructions are decoded by the standard library's `pickletools`, which takes no length
on trust; Python's own unpickler would set aside the memory that a hostile file claims.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import BinaryIO

from ovseg_jax.convert.refusals import AGAIN, Unreadable, shown

# A checkpoint takes about 25 instructions per tensor, those of its optimizer included.
MAX_INSTRUCTIONS = 2_000_000
MAX_NAME = 500
MAX_ARGUMENTS = 16


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A class, function or constant by its dotted name; not the thing itself."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Opaque:
    """What the class or function `name` would have made."""

    name: str


@dataclasses.dataclass(eq=False, slots=True)
class Module:
    """A TorchScript module: its class by name, and children, tensors and flags by attribute."""

    name: str
    attributes: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Numbers that lie elsewhere in the file.

    Attributes:
      kind: PyTorch's name of the storage class, which tells the type of its elements.
      key: what the place is called.
      count: elements that belong to it.
      start: elements before the first one (very old files only).
    """

    kind: str
    key: str
    count: int
    start: int = 0


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A strided view of a storage, as claimed: nothing is checked yet.

    Attributes:
      storage: normally a `Storage`.
      offset: elements before the first one.
      size: elements per axis.
      stride: steps per axis, in elements.
      dtype: PyTorch's name where it differs from that of the storage; otherwise None.
    """

    storage: object
    offset: object
    size: object
    stride: object
    dtype: str | None = None


@dataclasses.dataclass(eq=False, slots=True)
class DType:
    """A NumPy type: its code such as 'f4', and '>' where it is big-endian."""

    code: object
    order: object = "<"


@dataclasses.dataclass(eq=False, slots=True)
class Array:
    """A NumPy array, as claimed.

    Attributes:
      dtype: normally a `DType`.
      shape: elements per axis.
      order: 'C' or 'F'.
      data: bytes, or the same as Latin-1 text.
      axes: a permutation to apply at last; otherwise None.
    """

    dtype: object = None
    shape: object = ()
    order: object = "C"
    data: object = b""
    axes: object = None


@dataclasses.dataclass(frozen=True)
class Pickle:
    """What a pickle describes.

    Attributes:
      root: the value.
      refused: names that it asked to call and that were not.
      storages: by key.
    """

    root: object
    refused: tuple[str, ...]
    storages: dict[str, Storage]


def unpickle(stream: BinaryIO) -> Pickle:
    """Reads one pickle and leaves the stream behind it.

    Args:
      stream: has `read` and `readline`, and never sets aside more memory than it holds (a mapped
        file or `BytesIO`).

    Raises:
      Unreadable: it is damaged or absurdly long.
    """
    machine = _Machine()
    try:
        root = machine.run(stream)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise Unreadable(f"is damaged or cut off ({shown(error)}); {AGAIN}") from error
    return Pickle(root, tuple(machine.refused), machine.storages)


def describe(value: object) -> str:
    """The type of a value, for people."""
    match value:
        case Opaque(name=name) | Module(name=name):
            return shown(name)
        case Global(name=name):
            return f"the name {shown(name)}"
        case Storage(kind=name):
            return shown(name)
        case Array(dtype=DType(code=str(code))):
            return f"NumPy array of {shown(code)}"
        case Array():
            return "NumPy array"
        case Tensor():
            return "tensor"
        case dict() | list() | tuple():
            return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _put(target: dict, key: object, value: object) -> None:
    # Hashing a tuple of tuples may recurse without end, and large numbers can be made to collide.
    small = type(key) is int and abs(key) < 1 << 64
    plain = small or isinstance(key, str | bytes | bool | None)
    target[key if plain else Opaque(type(key).__name__)] = value


def _ordered(pairs: object = ()) -> dict:
    result: dict = {}
    for key, value in pairs if isinstance(pairs, list) else ():
        _put(result, key, value)
    return result


def _torch_tensor(storage, offset, size, stride, *_) -> Tensor:
    return Tensor(storage, offset, size, stride)


def _torch_tensor_v2(storage, offset, size, stride, gradient, hooks, bits=None) -> Tensor | Opaque:
    # Conjugation and negation may be pending, and are kept beside the numbers.
    if isinstance(bits, dict) and (bits.get("conj") or bits.get("neg")):
        return Opaque("torch.Tensor with a pending conjugation or negation")
    return Tensor(storage, offset, size, stride)


def _torch_tensor_v3(storage, offset, size, stride, gradient, hooks, dtype, bits=None) -> Tensor:
    return Tensor(storage, offset, size, stride, dtype.name)


def _torch_subclass(function, kind, arguments, state) -> object:
    inner = function.name.startswith("torch._utils._rebuild_")
    return _call(function, arguments) if inner else Opaque(function.name)


def _numpy_array(kind, *_) -> Array | Opaque:
    return Array() if kind.name == "numpy.ndarray" else Opaque(kind.name)


def _numpy_buffer(data, dtype, shape, order, axes=None) -> Array:
    return Array(dtype, shape, "F" if order == "F" else "C", data, axes)


def _numpy_dtype(code, *_) -> DType:
    return DType(code.name if isinstance(code, Global) else code)


def _encoded(text, codec) -> str | Opaque:
    # Left as text: encoding the same text many times could fill the memory.
    return text if codec == "latin1" else Opaque("_codecs.encode")


# What may be "called". The arguments are the file's; none of the functions trusts or uses them.
_BUILDERS: dict[str, Callable] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "torch._utils._rebuild_tensor": _torch_tensor,
    "torch._utils._rebuild_tensor_v2": _torch_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _torch_tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _torch_subclass,
    "torch.Size": lambda sizes=(): sizes,
    "torch.device": lambda *_: Opaque("torch.device"),
    "torch.jit._pickle.build_boollist": lambda items: items,
    "torch.jit._pickle.build_doublelist": lambda items: items,
    "torch.jit._pickle.build_intlist": lambda items: items,
    "torch.jit._pickle.build_tensorlist": lambda items: items,
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
    "numpy.dtype": _numpy_dtype,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray.scalar": lambda dtype, data=b"": Array(dtype, (), "C", data),
    "numpy._core.numeric._frombuffer": _numpy_buffer,
    "_codecs.encode": _encoded,
    "builtins.bytes": lambda: b"",
}

_RENAMED = {"__builtin__.": "builtins.", "copy_reg.": "copyreg.", "numpy.core.": "numpy._core."}


def _global(module: object, name: object) -> Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no text")
    if len(module) + len(name) > MAX_NAME:
        raise ValueError("a name is too long")
    full = f"{module}.{name}"
    for old, new in _RENAMED.items():
        if full.startswith(old):
            return Global(new + full.removeprefix(old))
    return Global(full)


def _call(function: object, arguments: object) -> object:
    if not isinstance(function, Global):
        return Opaque(function.name if isinstance(function, Opaque) else describe(function))
    if function.name.startswith("__torch__."):
        return Module(function.name)
    usual = type(arguments) is tuple and len(arguments) <= MAX_ARGUMENTS
    if function.name not in _BUILDERS or not usual:
        return Opaque(function.name)
    try:
        return _BUILDERS[function.name](*arguments)
    except (TypeError, ValueError, AttributeError):  # arguments of another number or kind
        return Opaque(function.name)


def _referred(reference: object) -> Storage | Global:
    match reference:
        case ("storage", Global(name=kind), str(key), _, int(count)):
            return Storage(kind, key, count)
        case ("storage", Global(name=kind), str(key), _, int(count), None):
            return Storage(kind, key, count)
        case ("storage", Global(name=kind), str(key), _, int(), (_, int(start), int(count))):
            return Storage(kind, key, count, start)
        case ("module", Global() as kind, *_):  # a class, with its source code
            return kind
    raise ValueError("a reference to something other than a storage")


def _build(target: object, state: object) -> None:
    match target, state:
        case Module(), dict():
            target.attributes = state
        case Array(), (_, shape, dtype, fortran, data):
            target.shape, target.dtype, target.data = shape, dtype, data
            target.order = "F" if fortran else "C"
        case DType(), (_, order, *_):
            target.order = order


# Instructions that do nothing but put their argument, a number or text, on the stack.
_LITERALS = frozenset(
    code.name
    for code in pickletools.opcodes
    if code.arg and not code.stack_before and code.stack_after not in ([], [pickletools.anyobject])
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    def __init__(self):
        self.stack: list = []
        self.marked: list[list] = []
        self.memo: dict[int, object] = {}
        self.refused: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}
        self.left = MAX_INSTRUCTIONS

    def run(self, stream: BinaryIO) -> object:
        for instruction, argument, _ in pickletools.genops(stream):
            self.spend(1)
            if instruction.name in _LITERALS:
                self.stack.append(argument)
            else:
                self.step(instruction.name, argument)
        return self.stack.pop()

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise Unreadable(
                f"takes more than {MAX_INSTRUCTIONS:,} instructions to describe its content; "
                "save the model's state_dict() alone"
            )

    def step(self, name: str, argument) -> None:
        stack = self.stack
        match name:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marked.append(stack)
                self.stack = []
            case "TUPLE":
                self.push(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(items)))
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[name])
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                self.call(function, arguments)
            case "BINPERSID":
                self.refer(stack.pop())
            case "PERSID":
                self.refer(argument)
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = self.since_mark()
                self.push({})
                self.set_items(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.since_mark())
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                self.push(self.since_mark())
            case "APPEND":
                item = stack.pop()
                self.extend([item])
            case "APPENDS":
                self.extend(self.since_mark())
            case "EMPTY_SET":
                stack.append(Opaque("set"))
            case "ADDITEMS":
                self.since_mark()
            case "FROZENSET":
                self.since_mark()
                self.push(Opaque("frozenset"))
            case "GLOBAL":
                stack.append(_global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_global(module, attribute))
            case "INST":
                self.call(_global(*argument.split(" ", 1)), tuple(self.since_mark()))
            case "OBJ":
                function, *arguments = self.since_mark()
                self.call(function, tuple(arguments))
            case "NEWOBJ_EX":
                keywords, arguments, function = stack.pop(), stack.pop(), stack.pop()
                self.call(function, None if keywords else arguments)
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.since_mark()
            case "POP_MARK":
                self.since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(Opaque("copyreg extension"))
            case "PROTO" | "FRAME" | "READONLY_BUFFER" | "STOP":
                pass
            case _:
                raise ValueError(f"unexpected instruction {name}")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def call(self, function: object, arguments: object) -> None:
        match function, arguments:
            case Global(name="collections.OrderedDict"), (list() as pairs,):
                self.spend(len(pairs))
        result = _call(function, arguments)
        if isinstance(result, Opaque) and result.name != "torch.device":
            self.refused[result.name] = None
        self.push(result)

    def refer(self, reference: object) -> None:
        found = _referred(reference)
        if isinstance(found, Storage):
            self.storages[found.key] = found
        self.push(found)

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                _put(target, key, value)
        elif not isinstance(target, Opaque):
            raise ValueError("items of something that holds none")

    def extend(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise ValueError("entries of something that holds none")
