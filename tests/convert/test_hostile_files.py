"""Files that are cut off, lie or attack: one sentence each, and nothing run or allocated for it."""

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch_files as files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors
from torch_files import Call, Named, Raw, Storage, tensor, view

from ovseg_jax.convert import pickles
from ovseg_jax.convert.checkpoint_files import Checkpoint, read_checkpoint
from ovseg_jax.errors import UserError

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
SYSTEM = Named("os", "system")


def read(tmp_path, content: bytes) -> Checkpoint:
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    return read_checkpoint(path)


def assert_one_sentence(message, path):
    assert message.startswith(f"{path} ") and message.endswith(".") and "; " in message
    assert message.isprintable() and len(message) < len(str(path)) + 400


def refusal(tmp_path, content: bytes) -> str:
    """What reading says, after checks of its form, and of the time and memory that it took."""
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < (64 << 20) + 4 * len(content)
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 30
    assert_one_sentence(str(caught.value), path)
    return str(caught.value).removeprefix(f"{path} ")


ROW = Storage(np.arange(10, dtype=np.float32))


def viewed(offset=0, size=(10,), stride=(1,), **storage):
    return {"w": view(Storage(ROW.values, **storage), offset, size, stride)}


HOSTILE_TENSORS = {
    "longer storage": (viewed(count=11), "w, that claims a longer storage than 0 is"),
    "huge storage": (viewed(count=1 << 60), "absurd sizes"),
    "negative storage": (viewed(count=-1), "negative or absurd sizes"),
    "offset": (viewed(offset=1), "w, that reaches beyond its storage"),
    "negative offset": (viewed(offset=-1), "negative or absurd sizes"),
    "size": (viewed(size=(11,)), "reaches beyond its storage"),
    "negative size": (viewed(size=(-1,)), "negative or absurd sizes"),
    "stride": (viewed(stride=(2,)), "reaches beyond its storage"),
    "negative stride": (viewed(offset=9, stride=(-1,)), "negative or absurd sizes"),
    "overflow": (viewed(size=(1 << 32, 1 << 32), stride=(1 << 32, 1)), "absurdly large"),
    "wrapping": (viewed(size=(2,), stride=((1 << 62) - 1,)), "negative or absurd sizes"),
    "expanded": (viewed(size=(1 << 40,), stride=(0,)), "absurdly large for the size of the file"),
    "many expanded": (
        {str(i): view(ROW, 0, (1 << 24,), (0,)) for i in range(9)},
        "absurdly large for the size of the file",
    ),
    "empty but huge": (viewed(size=(0, 1 << 47, 1 << 47), stride=(1, 1, 1)), "absurdly large"),
    "axes": (viewed(size=(1,) * 65, stride=(1,) * 65), "no proper size"),
    "lengths": (viewed(size=(2, 2)), "2 axes but 1 strides"),
    "size no tuple": ({"w": Call(files.REBUILD, (ROW, 0, 10, 1, False, None))}, "no proper size"),
    "size of floats": (viewed(size=(10.0,)), "negative or absurd sizes"),
    "size of flags": (viewed(size=(True,)), "negative or absurd sizes"),
    "unknown numbers": (
        viewed(kind=Named("torch", "QInt8Storage")),
        "torch.QInt8Storage",
    ),
    "storage from a call": (
        {"w": view(Call(SYSTEM, ("true",)), 0, (1,), (1,))},
        "w, that is made from os.system, which is not run here",
    ),
    "storage from a number": ({"w": view(3, 0, (1,), (1,))}, "is made from int"),
    "same name": ({"a.b": tensor(MATRIX), "a": {"b": tensor(MATRIX)}}, "two tensors called a.b"),
    "endless name": ({"a" * 501: tensor(MATRIX)}, "more than 500 characters"),
    "no tensors": ({"epoch": 1}, "no weights with names (dict of 1)"),
    "only a tensor": (tensor(MATRIX), "no weights with names (tensor)"),
    "only a list": ([tensor(MATRIX)], "no weights with names (list of 1)"),
}


@pytest.mark.parametrize("form", [files.archive, files.legacy], ids=["archive", "legacy"])
@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_claims_about_tensors(tmp_path, case, form):
    state, message = HOSTILE_TENSORS[case]
    assert message in refusal(tmp_path, form(state))


def referring(reference):
    return {"w": view(Storage(ROW.values, reference=reference), 0, (10,), (1,))}


FLOATS = Named("torch", "FloatStorage")


@pytest.mark.parametrize(
    "reference",
    [
        *((), ("storage",), "0", 7, ("other", FLOATS, "0", "cpu", 10), ["storage"]),
        *(("storage", FLOATS, 0, "cpu", 10), ("storage", "FloatStorage", "0", "cpu", 10)),
        *(("storage", FLOATS, "0", "cpu", "10"), ("storage", FLOATS, "0", "cpu", 10, "x")),
    ],
)
def test_references_of_wrong_shape(tmp_path, reference):
    state = referring(reference)
    assert "other than a storage" in refusal(tmp_path, files.archive(state))


def test_references_lead_nowhere_else(tmp_path):
    (tmp_path / "secret").write_bytes(ROW.values.tobytes())
    for key in ("../secret", "/etc/passwd", "../../secret", str(tmp_path / "secret"), "", "1"):
        state = referring(("storage", FLOATS, key, "cpu", 10))
        assert "lacks its member archive/data/" in refusal(tmp_path, files.archive(state))
        state = {"a": tensor(MATRIX), **referring(("storage", FLOATS, key, "cpu", 10, None))}
        assert "reads" not in refusal(tmp_path, files.legacy(state))


CALLS = {
    "reduce": lambda command: Call(SYSTEM, (command,)),
    "posix": lambda command: Call(Named("posix", "system"), (command,)),
    "eval": lambda command: Call(
        Named("builtins", "eval"), (f"__import__('os').system({command!r})",)
    ),
    "chain": lambda command: Call(
        Call(Named("builtins", "getattr"), (Named("os", "path"), "system")), (command,)
    ),
    "nested": lambda command: Call(Named("torch.storage", "_load_from_bytes"), (command.encode(),)),
    "newobj": lambda command: Raw(b"cos\nsystem\n(" + text(command) + b"t\x81"),
    "newobj_ex": lambda command: Raw(b"cos\nsystem\n(" + text(command) + b"t}\x92"),
    "obj": lambda command: Raw(b"(cos\nsystem\n" + text(command) + b"o"),
    "inst": lambda command: Raw(b"(" + text(command) + b"ios\nsystem\n"),
    "stack_global": lambda command: Raw(
        text("os") + text("system") + b"\x93(" + text(command) + b"tR"
    ),
    "build": lambda command: Raw(
        b"cos\nsystem\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb" + text(command) + b"b"
    ),
    "extension": lambda command: Raw(b"\x82\x01(" + text(command) + b"tR"),
    "set of calls": lambda command: Raw(b"\x8f(cos\nsystem\n(" + text(command) + b"tR\x90"),
    "through a rebuild": lambda command: Call(
        Named("torch._tensor", "_rebuild_from_type_v2"), (SYSTEM, SYSTEM, (command,), {})
    ),
    "as NumPy's array class": lambda command: Call(
        Named("numpy.core.multiarray", "_reconstruct"), (SYSTEM, (0,), b"b")
    ),
    "as a dictionary's default": lambda command: Call(
        Named("collections", "defaultdict"), (SYSTEM,)
    ),
}


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


@pytest.mark.parametrize("form", [files.archive, files.legacy], ids=["archive", "legacy"])
@pytest.mark.parametrize("attack", CALLS)
def test_nothing_is_ever_run(tmp_path, attack, form):
    canary = tmp_path / "canary"
    payload = CALLS[attack](f"touch {canary}")
    for root in (payload, {"state_dict": payload}, {"model": {"a": payload}}):
        assert "holds no weights" in refusal(tmp_path, form(root))
    checkpoint = read(tmp_path, form({"a": tensor(MATRIX), "evil": payload}))
    np.testing.assert_array_equal(checkpoint.tensors["a"], MATRIX)
    assert list(checkpoint.tensors) == ["a"]
    assert checkpoint.opaque[0].startswith("evil: ")
    refused = refusal(tmp_path, form({"a": tensor(MATRIX), "w": view(payload, 0, (1,), (1,))}))
    assert "w, that is made from " in refused
    assert not canary.exists()


def test_what_was_refused_is_named(tmp_path):
    root = {"state_dict": Call(SYSTEM, ("true",)), "a": Call(Named("some\tbad", "x" * 90), ())}
    message = refusal(tmp_path, files.archive(root))
    assert "without running its code (os.system, some?badxxx".replace("badx", "bad.x") in message
    source = ("module", Named("some.models", "Net"), "models.py", "class Net: …")
    for kind, form in (
        (Named("some.models", "Net"), files.archive),
        (Storage(MATRIX, reference=source), files.legacy),  # with its source code
    ):
        model = files.Instance(kind, {"_parameters": {"a": tensor(MATRIX)}})
        message = refusal(tmp_path, form(model))
        assert "(some.models.Net); save the model's state_dict()" in message


def raw(opcodes):
    """An archive with a good tensor 'a' and, as 'x', what the opcodes leave."""
    return files.archive({"a": tensor(MATRIX), "x": Raw(opcodes)})


LYING = {
    "text": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x",
    "bytes": b"\x8e" + struct.pack("<Q", 1 << 40) + b"x",
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 40) + b"x",
    "absurd bytes": b"\x8e" + struct.pack("<Q", (1 << 64) - 1),
    "text of 4 GB": b"X" + struct.pack("<I", (1 << 32) - 1) + b"x",
    "number": b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x",
    "negative number": b"\x8b" + struct.pack("<i", -1) + b"x",
    "name of many digits": b"L" + b"9" * 10000 + b"L\n",
    "unknown instruction": b"\xff",
    "buffer outside": b"\x97",
    "unknown memory": b"h\xf0",
    "no mark": b"t",
    "empty stack": b"000000R",
    "half a pair": b"}(Nu",
    "item of a number": b"K\x01NNs",
    "entry of a number": b"K\x01Na",
    "name of numbers": b"K\x01K\x02\x93",
    "long name": b"c" + b"a" * 600 + b"\nb\n",
}


@pytest.mark.parametrize("case", LYING)
def test_damaged_instructions(tmp_path, case):
    assert "is damaged or cut off (" in refusal(tmp_path, raw(LYING[case]))


HARMLESS = {
    "memory at a huge index": b"Nr\xff\xff\xff\x7f",
    "memory at an absurd index": b"Np99999999999999999999\n",
    "lying frame": b"\x95" + struct.pack("<Q", 1 << 60) + b"N",
    "deep tuples": b"N" + b"\x85" * 50_000,
    "deep lists": b"]" * 50_000 + b"a" * 49_999,
    "deep arguments": b"cos\nsystem\nN" + b"\x85" * 50_000 + b"R",
    "deep tensors": b"]ctorch._utils\n_rebuild_tensor\nq\xf0"
    + b"q\xf10h\xf0(h\xf1K\x00))tR" * 10_000
    + b"a",
    "deep tuple as a key": b"}N" + b"\x85" * 100_000 + b"Ns",
    "list as a key": b"}]Ns",
    "list within itself": b"]q\xfeh\xfea",
    "many marks": b"(" * 50_000 + b"1" * 50_000 + b"N",
    "huge number": b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000,
    "colliding keys": b"}("
    + b"".join(
        b"\x8a\x0a" + (k * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for k in range(20_000)
    )
    + b"u",
}


@pytest.mark.parametrize("case", HARMLESS)
def test_strange_but_harmless_instructions(tmp_path, case):
    content = raw(HARMLESS[case])
    tracemalloc.start()
    checkpoint = read(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(checkpoint.tensors) == ["a"] and peak < 64 << 20


def test_entries_within_themselves(tmp_path):
    state = {"a": tensor(MATRIX)}
    state["self"] = state
    assert "within themselves" in refusal(tmp_path, files.archive(state))
    module = files.script("Net", a=tensor(MATRIX))
    module.state["self"] = module
    assert "within themselves" in refusal(tmp_path, files.script_archive(module))


def test_a_million_laughs(tmp_path):
    laughs = {"a": tensor(MATRIX)}
    for _ in range(40):
        laughs = {"ha": laughs, "ho": laughs}
    assert "absurdly deeply" in refusal(tmp_path, files.archive(laughs))
    lists = ["ha"]
    for _ in range(100):
        lists = [lists] * 10
    assert list(read(tmp_path, files.archive({"a": tensor(MATRIX), "x": lists})).tensors) == ["a"]


def test_deep_dictionaries(tmp_path):
    assert "absurdly deeply" in refusal(
        tmp_path, raw(b"}" + b"X\x01\0\0\0k}" * 99_999 + b"s" * 99_999)
    )


def test_copies_that_multiply(tmp_path):
    """Arguments that are short to name again and long to copy."""
    pairs = b"](" + b"K\x01K\x02\x86" * 10_000 + b"e"
    again = b"ccollections\nOrderedDict\nh\xf0\x85R0" * 1000
    assert "instructions" in refusal(tmp_path, raw(pairs + b"q\xf0" + again))
    many = b"(" + b"N" * 10_000 + b"tq\xf0"
    content = raw(many + b"cos\nsystem\nh\xf0R0" * 10_000 + b"ctorch\nSize\nh\xf0R0" * 10_000)
    start = time.perf_counter()
    read(tmp_path, content)
    assert time.perf_counter() - start < 20


def test_too_many_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    assert "more than 1,000 instructions" in refusal(tmp_path, raw(b"N0" * 1000 + b"N"))


def test_archives_that_are_cut_off(tmp_path):
    content = files.archive({"a": tensor(MATRIX)})
    for length in range(1, len(content), 37):
        refusal(tmp_path, content[:length])
    assert "is not a complete zip archive" in refusal(tmp_path, content[:-1])


def test_legacy_files_that_are_cut_off(tmp_path):
    content = files.legacy({"a": tensor(MATRIX), "b": tensor(MATRIX)})
    for length in [*range(2, len(content), 11), len(content) - 1]:
        refusal(tmp_path, content[:length])
    assert "is cut off within its storages" in refusal(tmp_path, content[:-1])


def test_legacy_storages_that_lie(tmp_path):
    state = {"a": tensor(MATRIX)}
    for count in (-1, 13, 1 << 61, -(1 << 63)):
        content = files.legacy(state, counts={"0": count})
        assert "is cut off within its storages" in refusal(tmp_path, content)
    assert "longer storage than 0 is" in refusal(tmp_path, files.legacy(state, counts={"0": 11}))
    for keys in (["1"], [7], [["0"]]):
        assert "no known class" in refusal(tmp_path, files.legacy(state, keys=keys))
    for keys in ([], "0", None, {"0": 1}):
        if keys is not None:
            assert "longer storage" in refusal(tmp_path, files.legacy(state, keys=keys))
    assert "unknown version" in refusal(tmp_path, files.legacy(state, version=1002))


def members(**changes):
    found = files.archive_members({"a": tensor(MATRIX)})
    return found | {f"archive/{name}": content for name, content in changes.items()}


def test_archives_with_wrong_members(tmp_path):
    short = members() | {"archive/data/0": MATRIX.tobytes()[:-1]}
    assert "longer storage than 0 is" in refusal(tmp_path, files.zipped(short))
    lacking = members()
    del lacking["archive/data/0"]
    assert "lacks its member archive/data/0" in refusal(tmp_path, files.zipped(lacking))
    assert "unknown order" in refusal(tmp_path, files.zipped(members(byteorder=b"middle")))
    both = members() | {"other/data.pkl": b"\x80\x02N."}
    assert "several models" in refusal(tmp_path, files.zipped(both))
    assert "without weights" in refusal(tmp_path, files.zipped({"readme": b"x"}))
    assert "without weights" in refusal(tmp_path, files.zipped({}))
    packed = files.zipped(members(), zipfile.ZIP_DEFLATED)
    assert "in compressed form" in refusal(tmp_path, packed)
    packed = files.zipped(members(), zipfile.ZIP_BZIP2)
    assert "in an unknown way" in refusal(tmp_path, packed)


def test_members_of_one_name(tmp_path):
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in [*members().items(), ("archive/data/0", b"other")]:
            archive.writestr(name, content)
    assert "several members of one name" in refusal(tmp_path, stream.getvalue())


def patched(content, name, **fields):
    """The archive with another entry for a member in its table of contents."""
    content, start = bytearray(content), 0
    offsets = {"flags": (8, "<H"), "packed": (20, "<I"), "size": (24, "<I"), "place": (42, "<I")}
    while (start := content.find(b"PK\x01\x02", start)) >= 0:
        if content[start + 46 :].startswith(name.encode()):
            for field, value in fields.items():
                offset, form = offsets[field]
                struct.pack_into(form, content, start + offset, value)
        start += 1
    return bytes(content)


def test_a_table_of_contents_that_lies(tmp_path):
    content, storage = files.zipped(members()), "archive/data/0"
    for fields, message in [
        ({"flags": 1}, "in encrypted form"),
        ({"packed": 1 << 31, "size": 1 << 31}, "lacks the content"),
        ({"size": 1 << 31}, "in compressed form"),
        ({"place": 1 << 31}, "lacks the content"),
        ({"place": 7}, "lacks the content"),
    ]:
        assert message in refusal(tmp_path, patched(content, storage, **fields))
    huge = patched(content, "archive/data.pkl", packed=300 << 20, size=300 << 20)
    assert "absurdly large archive/data.pkl" in refusal(tmp_path, huge)
    end = content[:-10] + struct.pack("<II", 1 << 31, 0) + content[-2:]
    assert "is not a complete zip archive" in refusal(tmp_path, end)


def test_a_table_of_contents_of_absurd_length(tmp_path, monkeypatch):
    from ovseg_jax.convert import archives

    monkeypatch.setattr(archives, "MAX_TABLE_BYTES", 100)
    assert "long table of contents" in refusal(tmp_path, files.zipped(members()))


def npz(compressed=False, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def npy(header, body=b"", version=(1, 0)):
    text = header.encode().ljust(117) + b"\n"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return files.zipped({"a.npy": b"\x93NUMPY" + bytes(version) + length + text + body})


def test_bombs(tmp_path):
    """Some kilobytes that unpack to 300 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    for name, message in (("archive/data.pkl", "absurdly large"), ("a.npy", "absurdly much")):
        content = files.zipped({name: b"x" * len(packed)})
        content = content.replace(b"x" * len(packed), packed)
        method = struct.pack("<H", zipfile.ZIP_DEFLATED)
        content = content.replace(
            b"PK\x01\x02\x14\x03\x14\0\0\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0" + method
        )
        assert message in refusal(tmp_path, patched(content, name, size=300 << 20))
        assert "another length" in refusal(tmp_path, patched(content, name, size=1000))


def test_npz_files_that_lie(tmp_path):
    assert "Python objects" in refusal(tmp_path, npz(a=np.array([None], object)))
    good = npz(a=MATRIX)
    assert "is not a complete zip archive" in refusal(tmp_path, good[:-30])
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
    for shape in ("(1000000000000,)", "(3,)", "(-1,)", "(-1, -1)", "(0, -1)"):
        assert "a wrong size" in refusal(tmp_path, npy(head % shape, b"\0" * 4))
    assert "damaged array a" in refusal(tmp_path, npy(head % f"(0, {1 << 62}, {1 << 62})"))
    for header in ("", "{", "{'descr': 1}", "__import__('os').system('true')", "(" * 110, "\xff"):
        assert "damaged array a" in refusal(tmp_path, npy(header))
    assert "damaged array a" in refusal(tmp_path, npy(head % "(1,)", b"\0" * 4, (9, 9)))
    assert "damaged array a" in refusal(tmp_path, files.zipped({"a.npy": b"\x93NUM"}))
    assert "holds no tensors" in refusal(tmp_path, npz(a=np.array("text")))


def safe(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(begin, end, shape=None, dtype="F32"):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE_SAFETENSORS = {
    "cut in its numbers": (save_safetensors({"a": MATRIX})[:-1], "wrong place or size"),
    "cut in its header": (save_safetensors({"a": MATRIX})[:40], "cut off within its safetensors"),
    "length": (struct.pack("<Q", 1 << 60) + b'{"a":1}', "absurdly long safetensors header"),
    "no JSON": (safe(b"{]"), "damaged table"),
    "no text": (safe(b"{\xff"), "damaged table"),
    "deep": (safe(b'{"a":' * 100_000), "damaged table"),
    "many digits": (safe(b'{"a":' + b"9" * 5000 + b"}"), "damaged table"),
    "twice": (safe(b'{"a":1,"a":2}'), "a name occurs twice"),
    "no entry": (safe({"a": 3}), "describes tensor a wrongly"),
    "half an entry": (safe({"a": {"dtype": "F32"}}), "describes tensor a wrongly"),
    "type": (safe({"a": entry(0, 4, dtype="F4")}, b"\0" * 4), "F4, which has no counterpart"),
    "type no text": (safe({"a": entry(0, 4, dtype=[])}, b"\0" * 4), "wrongly"),
    "negative shape": (safe({"a": entry(0, 4, [-1])}, b"\0" * 4), "wrongly"),
    "fractions": (safe({"a": entry(0, 4, [1.0])}, b"\0" * 4), "wrongly"),
    "flags": (safe({"a": entry(0, 4, [True])}, b"\0" * 4), "wrongly"),
    "axes": (safe({"a": entry(0, 4, [1] * 65)}, b"\0" * 4), "wrongly"),
    "empty but huge": (safe({"a": entry(0, 0, [0, 1 << 47, 1 << 47])}), "wrongly"),
    "size": (safe({"a": entry(0, 4, [2])}, b"\0" * 4), "wrong place or size"),
    "overflow": (safe({"a": entry(0, 4, [1 << 33, 1 << 33])}, b"\0" * 4), "wrongly"),
    "outside": (safe({"a": entry(0, 8)}, b"\0" * 4), "wrong place or size"),
    "backwards": (safe({"a": entry(4, 0, [0])}, b"\0" * 4), "wrong place or size"),
    "overlap": (safe({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12), "overlap"),
    "gap": (safe({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12), "belong to none"),
    "rest": (safe({"a": entry(0, 4)}, b"\0" * 8), "belong to none"),
    "nothing": (safe({"__metadata__": {}}), "holds no tensors"),
}


@pytest.mark.parametrize("case", HOSTILE_SAFETENSORS)
def test_safetensors_that_lie(tmp_path, case):
    content, message = HOSTILE_SAFETENSORS[case]
    assert message in refusal(tmp_path, content)


def index(tmp_path, **places):
    return refusal(tmp_path, json.dumps({"weight_map": places}).encode())


def test_indices_that_lie(tmp_path):
    (tmp_path / "part").write_bytes(save_safetensors({"a": MATRIX}))
    (tmp_path / "copy").write_bytes(save_safetensors({"a": MATRIX}))
    (tmp_path / "folder").mkdir()
    for name in ("../part", "/etc/passwd", "folder/part", "", ".", "..", "a\0b"):
        assert "outside of its folder" in index(tmp_path, a=name)
    assert "promises b, which no part holds" in index(tmp_path, a="part", b="part")
    assert "has a in several parts" in index(tmp_path, a="part", b="copy")
    for content in (b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": 3}}', b'{"model": 1}'):
        assert "without a weight_map" in refusal(tmp_path, content)
    assert "damaged table" in refusal(tmp_path, b'{"weight_map": {')
    assert "no tensors" in index(tmp_path)
    path = tmp_path / "checkpoint"
    for name, message in (
        ("missing", "no checkpoint at"),
        ("folder", "no checkpoint at"),
        ("checkpoint", "is an index in place of a part"),
    ):
        path.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match=message):
            read_checkpoint(path)


def test_things_that_are_no_checkpoints(tmp_path):
    for content, message in [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"hello", "in no format that is known here"),
        (b"\x80", "is damaged or cut off"),
        (b"PK\x03\x04", "is not a complete zip archive"),
    ]:
        assert message in refusal(tmp_path, content)
    with pytest.raises(UserError, match=r"no checkpoint at .*nowhere; check the path"):
        read_checkpoint(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder holds none of model.safetensors, .*; give the"):
        read_checkpoint(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_files_that_may_not_be_read(tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(files.archive({"a": tensor(MATRIX)}))
    path.chmod(0)
    with pytest.raises(UserError, match="check its permissions"):
        read_checkpoint(path)


STATE = {
    "model": files.state_dict(a=files.parameter(MATRIX), b=tensor(np.float16(3))),
    "optimizer": {"state": {0: {"step": tensor(MATRIX)}}, "param_groups": [{"lr": 0.1}]},
    "note": Call(Named("some", "Thing"), ("x",)),
}
SEEDS = [
    files.archive(STATE),
    files.archive(STATE, byteorder="big"),
    files.script_archive(files.script("Net", inner=files.script("Inner", a=tensor(MATRIX)))),
    files.legacy(STATE),
    pickle.dumps({"model": {"a": MATRIX, "b": MATRIX.T}, "n": np.float32(1)}, protocol=2),
    pickle.dumps({"model": {"a": MATRIX, "b": MATRIX.T}, "n": np.float32(1)}, protocol=5),
    save_safetensors({"a": MATRIX, "b": MATRIX.astype(np.float16)}),
    npz(a=MATRIX, b=np.asfortranarray(MATRIX)),
    npz(compressed=True, a=MATRIX, b=np.array("text")),
]
PLACES = st.integers(0, max(map(len, SEEDS)))
MUTATIONS = st.one_of(
    st.tuples(st.just("set"), PLACES, st.integers(0, 255)),
    st.tuples(st.just("cut"), PLACES, st.integers(0, 64)),
    st.tuples(st.just("end"), PLACES, st.just(0)),
    st.tuples(
        st.just("splice"),
        PLACES,
        st.sampled_from(SEEDS).flatmap(
            lambda seed: st.integers(0, len(seed)).map(lambda at: seed[at : at + 40])
        ),
    ),
    st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=16)),
)


def mutated(content, mutations):
    content = bytearray(content)
    for kind, place, argument in mutations:
        place %= len(content) + 1
        match kind:
            case "set":
                content[place : place + 1] = bytes([argument])
            case "cut":
                del content[place : place + argument]
            case "end":
                del content[place:]
            case "splice":
                content[place : place + len(argument)] = argument
            case "insert":
                content[place:place] = argument
    return bytes(content)


FUZZ = settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def read_or_refuse(path, content):
    path.unlink(missing_ok=True)  # a file that is mapped must not change
    path.write_bytes(content)
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        assert_one_sentence(str(error), path)
    else:
        assert checkpoint.tensors
        for array in checkpoint.tensors.values():
            array.copy()
        assert all(entry.isprintable() for entry in checkpoint.opaque)


@given(seed=st.sampled_from(SEEDS), mutations=st.lists(MUTATIONS, min_size=1, max_size=4))
@FUZZ
def test_damage_of_any_kind(tmp_path_factory, seed, mutations):
    read_or_refuse(tmp_path_factory.getbasetemp() / "damaged", mutated(seed, mutations))


NAMES = [*pickles._BUILDERS, "numpy.ndarray", "torch.FloatStorage", "os.system", "__torch__.Net"]
FRAGMENTS = [
    *(bytes([code]) for code in b"N(t)\x85\x86\x87Rb}d]lae\x8f\x90\x91su012Q\x81\x92\x93o\x88\x94"),
    *(b"K\x00", b"K\x03", b"J\xff\xff\xff\xff", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"U\x02ab"),
    *(text(word) for word in ("a", "storage", "0", "f4", "latin1", "state", "param_groups")),
    *(f"c{name.rpartition('.')[0]}\n{name.rpartition('.')[2]}\n".encode() for name in NAMES),
    *(
        files.pickled(value)[0][2:-1]
        for value in (tensor(MATRIX), MATRIX, {"b": 1}, ((3, 4), (4, 1)))
    ),
    b"ios\nsystem\n",
]


@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=40))
@FUZZ
def test_instructions_of_any_kind(tmp_path_factory, fragments):
    start = files.pickled({"good": tensor(MATRIX)})[0][:-1]
    content = {
        "archive/data.pkl": start + b"".join(fragments) + b".",
        "archive/data/0": MATRIX.tobytes(),
    }
    read_or_refuse(tmp_path_factory.getbasetemp() / "damaged", files.zipped(content))
