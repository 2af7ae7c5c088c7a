"""Reads weights from the files in which the PyTorch world keeps them, without PyTorch.

The format is told by a file's content, never by its name. Nothing that a file names is imported or
run, and nothing is allocated on a file's word; see `pickles` for how.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ovseg_jax.convert.archives import MappedFile, ZipArchive
from ovseg_jax.convert.array_files import MAX_JSON_BYTES, read_json, read_npz, read_safetensors
from ovseg_jax.convert.pickles import Array, Module, Opaque, Tensor, describe
from ovseg_jax.convert.refusals import AGAIN, Unreadable, shown
from ovseg_jax.convert.torch_files import (
    ArrayMaker,
    TorchFile,
    array_dtype,
    open_archive,
    open_pickle,
)
from ovseg_jax.errors import UserError

# What training loops call the dictionary that holds their network.
WRAPPERS = frozenset(
    {
        "state_dict",
        "model",
        "model_state_dict",
        "model_state",
        "module",
        "net",
        "network",
        "weights",
        "params",
        "blobs",
        "teacher",
        "student",
        "ema",
        "model_ema",
        "state_dict_ema",
        "ema_state_dict",
    }
)
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
# Far beyond real checkpoints; only entries within themselves or shared a thousand times get there.
MAX_DEPTH, MAX_ENTRIES, MAX_NAME = 64, 300_000, 500

# What is often saved under the name of a checkpoint by mistake.
_MISTAKEN = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; run git lfs pull",
    b"<": "is a web page, not a checkpoint; download the file itself",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"\x89HDF": "is an HDF5 file, which is not read; save the weights as safetensors or npz",
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The weights of a file or folder.

    Attributes:
      tensors: by dotted name, in the order of the file. Half precision is float16, bfloat16 is
        `ml_dtypes.bfloat16`, all other types are NumPy's own. Most arrays are read-only views of
        the file, with the strides they were saved with and at any address (unaligned), so the file
        must stay as it is while they are in use.
      layout: what the format is called: 'TorchScript archive', 'PyTorch archive', 'legacy PyTorch
        file', 'pickle of NumPy arrays', 'safetensors', 'sharded safetensors', 'sharded PyTorch' or
        'npz'.
      opaque: 'name: type' of what stands beside the weights and was not read, such as
        'optimizer: dict of 2' or 'args: argparse.Namespace'.
      files: what was read, for a digest.
    """

    tensors: dict[str, np.ndarray]
    layout: str
    opaque: tuple[str, ...]
    files: tuple[Path, ...]


Readers = Mapping[str, Callable[[MappedFile], Checkpoint]]
Keys = tuple[str, ...]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads the weights of a file, of a Hugging Face folder or of the index of a sharded model.

    Of a folder the first of `FOLDER_FILES` is read. In PyTorch files and pickles the weights are
    chosen so:

    1. A weight is a tensor that is reached from the root through dictionaries whose keys are all
       text, or through TorchScript modules; its name is the keys, joined with dots. Dictionaries
       with both 'state' and 'param_groups' are an optimizer's and hold none; neither do lists.
    2. While exactly one entry of the dictionary is itself a dictionary with weights, and is called
       one of `WRAPPERS` ('state_dict', 'model', …), it is taken in place of the dictionary, and
       the other entries are only reported. Two such entries ('student' and 'teacher') both stay,
       with their keys before their names; `strip_prefix` takes one.

    Args:
      path: the file or folder.

    Raises:
      UserError: nothing is there, the format is unknown, the file is damaged, cut off or malicious,
        or holds no weights that can be read without running its code.
    """
    path = Path(path)
    if path.is_dir():
        path = _main_file(path)
    return _read(path, {**_CONTENT, "index": _read_index})


def strip_prefix(
    tensors: Mapping[str, np.ndarray], prefix: str, keep_others: bool = True
) -> dict[str, np.ndarray]:
    """Takes off names what a wrapper put before them, such as 'module.' or 'teacher.'.

    Args:
      tensors: by name.
      prefix: with its dot.
      keep_others: keep tensors whose names begin otherwise; False drops them.

    Raises:
      UserError: two names become one.
    """
    stripped: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if not (name.startswith(prefix) or keep_others):
            continue
        short = name.removeprefix(prefix)
        if short in stripped:
            raise UserError(
                f"the checkpoint has {shown(short)} with and without {prefix} before it; "
                "choose those with it or those without."
            )
        stripped[short] = array
    return stripped


def _main_file(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} holds none of {', '.join(FOLDER_FILES)}; give the file itself.")


def _read(path: Path, readers: Readers) -> Checkpoint:
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; check the path, or download it first.")
    try:
        file = MappedFile(path)
        kind = _kind(file)
        if kind not in readers:
            raise Unreadable(f"is an index in place of a part of a sharded model; {AGAIN}")
        checkpoint = readers[kind](file)
        if not checkpoint.tensors:
            raise Unreadable("holds no tensors; give the checkpoint of a model")
    except Unreadable as error:
        raise UserError(f"{path} {error}.") from error
    return checkpoint


def _kind(file: MappedFile) -> str:
    head = file.data[:64].tobytes()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    # A safetensors file begins with a length, whose first byte may be that of any other format.
    if int.from_bytes(head[:8], "little") <= MAX_JSON_BYTES and head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pickle"
    if head.lstrip().startswith(b"{"):
        return "index"
    if head[8:9] == b"{":
        raise Unreadable(f"has an absurdly long safetensors header; {AGAIN}")
    for start, mistake in _MISTAKEN.items():
        if head.startswith(start):
            raise Unreadable(mistake)
    raise Unreadable(
        "is in no format that is known here; give a .pt, .pth, .bin, .pkl, .safetensors or .npz"
    )


def _read_zip(file: MappedFile) -> Checkpoint:
    archive = ZipArchive(file)
    source = open_archive(archive)
    if source is not None:
        return _read_torch(file, source)
    if not any(name.endswith(".npy") for name in archive.names):
        raise Unreadable("is a zip archive without weights; unpack it and give the file within")
    tensors, others = read_npz(archive)
    return Checkpoint(tensors, "npz", others, (file.path,))


def _read_safetensors(file: MappedFile) -> Checkpoint:
    return Checkpoint(read_safetensors(file), "safetensors", (), (file.path,))


def _read_pickle(file: MappedFile) -> Checkpoint:
    return _read_torch(file, open_pickle(file))


_CONTENT: Readers = {"zip": _read_zip, "safetensors": _read_safetensors, "pickle": _read_pickle}


def _read_index(file: MappedFile) -> Checkpoint:
    """Reads the parts that a Hugging Face index names, which must lie beside it."""
    places = read_json(file.data).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise Unreadable("is JSON without a weight_map; give a file of weights, or their index")
    tensors, layouts, opaque, files = {}, set(), (), (file.path,)
    for name in dict.fromkeys(places.values()):
        if name != Path(name).name or name in ("", "..") or "\0" in name:
            raise Unreadable(f"points to {shown(name)}, outside of its folder; {AGAIN}")
        part = _read(file.path.parent / name, _CONTENT)
        if twice := tensors.keys() & part.tensors.keys():
            raise Unreadable(f"has {shown(min(twice))} in several parts; {AGAIN}")
        tensors |= part.tensors
        layouts.add(part.layout)
        opaque += part.opaque
        files += part.files
    if lacking := places.keys() - tensors.keys():
        raise Unreadable(f"promises {shown(min(lacking))}, which no part holds; {AGAIN}")
    layout = "sharded safetensors" if layouts == {"safetensors"} else "sharded PyTorch"
    return Checkpoint(tensors, layout, opaque, files)


def _read_torch(file: MappedFile, source: TorchFile) -> Checkpoint:
    root, refused = source.content.root, source.content.refused
    leaves = dict(_leaves(root))
    weights = {keys: leaf for keys, leaf in leaves.items() if keys and _is_weight(leaf)}
    depth = 0
    while isinstance(root, dict) and _is_wrapped(weights, depth):
        weights = {keys: leaf for keys, leaf in weights.items() if len(keys) > depth + 1}
        depth += 1
    if not weights:
        raise Unreadable(_why_empty(root, refused))
    make = ArrayMaker(source, len(file.data))
    tensors: dict[str, np.ndarray] = {}
    for keys, leaf in weights.items():
        name = _dotted(keys[depth:])
        if name in tensors:
            raise Unreadable(f"holds two tensors called {shown(name)}; {AGAIN}")
        tensors[name] = make(name, leaf)
    return Checkpoint(tensors, source.layout, _beside(root, leaves, weights), (file.path,))


def _leaves(root: object) -> Iterator[tuple[Keys, object]]:
    """What lies in nested dictionaries and modules, with the keys that lead there, in order."""
    pending: list[tuple[Keys, object]] = [((), root)]
    entries = 0
    while pending:
        keys, node = pending.pop()
        inside = _inside(node)
        entries += len(inside)
        if entries > MAX_ENTRIES or len(keys) > MAX_DEPTH:
            raise Unreadable(
                "nests its entries absurdly deeply, or within themselves; "
                "save the model's state_dict() alone"
            )
        if inside and all(isinstance(key, str) for key in inside) and not _is_optimizer(inside):
            pending.extend(((*keys, key), inside[key]) for key in reversed(inside))
        elif not isinstance(node, Module):
            yield keys, node


def _inside(node: object) -> dict:
    if isinstance(node, Module):  # whose other attributes are flags
        parts = Module | Tensor | Opaque
        return {key: value for key, value in node.attributes.items() if isinstance(value, parts)}
    return node if isinstance(node, dict) else {}


def _is_optimizer(entries: dict) -> bool:
    return "state" in entries and "param_groups" in entries


def _is_weight(leaf: object) -> bool:
    return isinstance(leaf, Tensor) or (isinstance(leaf, Array) and array_dtype(leaf) is not None)


def _is_wrapped(weights: Mapping[Keys, object], depth: int) -> bool:
    nested = {keys[depth] for keys in weights if len(keys) > depth + 1}
    return len(nested) == 1 and nested <= WRAPPERS


def _dotted(keys: Keys) -> str:
    if sum(map(len, keys)) > MAX_NAME:
        raise Unreadable(f"calls a tensor by more than {MAX_NAME} characters; {AGAIN}")
    return ".".join(keys)


def _beside(
    root: object, leaves: Mapping[Keys, object], weights: Mapping[Keys, object]
) -> tuple[str, ...]:
    """The outermost entries without weights, as 'name: type'."""
    leading: set[Keys] = {()}
    for keys in weights:
        while keys not in leading:
            leading.add(keys)
            keys = keys[:-1]
    others: dict[Keys, None] = {}
    for keys in leaves:
        if keys not in weights:
            outermost = next(n for n in range(1, len(keys) + 1) if keys[:n] not in leading)
            others[keys[:outermost]] = None
    return tuple(f"{'.'.join(map(shown, keys))}: {describe(_at(root, keys))}" for keys in others)


def _at(node: object, keys: Keys) -> object:
    for key in keys:
        node = node.attributes[key] if isinstance(node, Module) else node[key]
    return node


def _why_empty(root: object, refused: tuple[str, ...]) -> str:
    if refused:
        names = ", ".join(map(shown, refused[:3])) + (", …" if len(refused) > 3 else "")
        return (
            f"holds no weights that can be read without running its code ({names}); "
            "save the model's state_dict() alone"
        )
    return f"holds no weights with names ({describe(root)}); give the checkpoint of a model"
