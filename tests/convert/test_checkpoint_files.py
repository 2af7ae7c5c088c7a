import argparse
import collections
import json
import pickle
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch_files as files
from safetensors.numpy import save as save_safetensors

from ovseg_jax.convert.checkpoint_files import Checkpoint, read_checkpoint, strip_prefix
from ovseg_jax.errors import UserError

BESIDE = Path(__file__).parents[3] / "shared" / "golden"
beside = pytest.mark.skipif(not BESIDE.is_dir(), reason="the full set lies beside the clone")

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
DTYPES = [
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("complex64", ml_dtypes.bfloat16),
]


def read(tmp_path, content) -> Checkpoint:
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    return read_checkpoint(path)


def assert_same(given, expected):
    assert list(given) == list(expected)
    for name, value in expected.items():
        assert given[name].dtype == value.dtype and given[name].shape == value.shape, name
        np.testing.assert_array_equal(given[name], value, err_msg=name)


@pytest.fixture(params=["archive", "legacy"])
def saved(request):
    """Both formats of torch.save."""
    return getattr(files, request.param)


def recorded(path, prefix="param/"):
    with np.load(path) as file:
        return {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}


def assert_holds(checkpoint, expected, casts=False):
    extra = checkpoint.tensors.keys() - expected.keys()
    assert all(name.endswith("num_batches_tracked") for name in extra)
    for name, value in expected.items():
        given = checkpoint.tensors[name]
        assert casts or given.dtype == value.dtype
        np.testing.assert_array_equal(given.astype(value.dtype), value, err_msg=name)


def test_an_openai_archive(golden):
    checkpoint = read_checkpoint(golden / "clip" / "openai_jit_vit.pt")
    assert checkpoint.layout == "TorchScript archive" and checkpoint.opaque == ()
    assert_holds(checkpoint, recorded(golden / "clip" / "openai_jit_vit.npz"), casts=True)
    assert checkpoint.tensors["visual.conv1.weight"].dtype == np.float16
    assert checkpoint.tensors["visual.ln_pre.weight"].dtype == np.float32
    assert checkpoint.tensors["input_resolution"].shape == ()


@beside
def test_recorded_files():
    clip = BESIDE / "clip"
    expected = recorded(clip / "openai_jit_rn.npz")
    assert_holds(read_checkpoint(clip / "openai_jit_rn.pt"), expected, casts=True)
    expected = recorded(clip / "layouts_vit.npz", "openai/")
    openclip = read_checkpoint(clip / "openclip_vit.pt")
    assert openclip.layout == "PyTorch archive" and openclip.opaque == ()
    assert_holds(openclip, expected)
    expected = recorded(clip / "layouts_vit.npz", "hf/")
    folder = read_checkpoint(clip / "hf_vit")
    assert folder.layout == "safetensors"
    assert folder.files == (clip / "hf_vit" / "model.safetensors",)
    assert_holds(folder, expected)
    assert_holds(read_checkpoint(clip / "hf_vit" / "pytorch_model.bin"), expected)


@beside
@pytest.mark.parametrize("system", ["groupvit", "ovsegmentor"])
def test_recorded_training_checkpoints(system):
    checkpoint = read_checkpoint(BESIDE / system / "checkpoint.pth")
    assert "logit_scale" in checkpoint.tensors
    assert {"optimizer: dict of 2", "epoch: int"} <= set(checkpoint.opaque)
    assert "config: omegaconf.dictconfig.DictConfig" in checkpoint.opaque


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_types(tmp_path, saved, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    checkpoint = read(tmp_path, saved({"a": files.tensor(values), "b": files.tensor(values[0, 1])}))
    assert_same(checkpoint.tensors, {"a": values, "b": values[0, 1]})


def test_views_of_one_storage(tmp_path, saved):
    storage = files.Storage(np.arange(24, dtype=np.float32))
    cube = storage.values.reshape(2, 3, 4)
    state = {
        "whole": files.view(storage, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": files.view(storage, 0, (4, 3, 2), (1, 4, 12)),
        "strided": files.view(storage, 1, (2, 2), (12, 2)),
        "expanded": files.view(storage, 5, (3, 2), (0, 0)),
        "scalar": files.view(storage, 23, (), ()),
        "empty": files.view(storage, 24, (0, 3), (3, 1)),
        "odd": files.view(storage, 4, (1, 4), (1 << 40, 1)),
    }
    tensors = read(tmp_path, saved(state)).tensors
    expected = {
        "whole": cube,
        "transposed": cube.T,
        "strided": cube[:, 0, 1::2],
        "expanded": np.full((3, 2), 5, np.float32),
        "scalar": np.float32(23),
        "empty": np.zeros((0, 3), np.float32),
        "odd": cube[:1, 1],
    }
    assert_same(tensors, expected)
    assert np.shares_memory(tensors["whole"], tensors["transposed"])
    assert not tensors["whole"].flags.writeable


def test_other_ways_to_write_a_tensor(tmp_path, saved):
    old = files.Named("torch._utils", "_rebuild_tensor")
    new = files.Named("torch._utils", "_rebuild_tensor_v3")
    subclass = files.Named("torch._tensor", "_rebuild_from_type_v2")
    with_state = files.Named("torch._utils", "_rebuild_parameter_with_state")
    untyped = files.Named("torch.storage", "UntypedStorage")
    counts = np.array([1, 2, 65535], np.uint16)
    bytes_ = files.Storage(counts.view(np.uint8), kind=untyped)
    hooks, plain = files.Call(files.ORDERED, ()), files.tensor(MATRIX)
    size = files.Call(files.Named("torch", "Size"), ((3, 4),))
    storage, kind = plain.arguments[0], files.Named("torch", "Tensor")
    dtype = files.Named("torch", "uint16")
    state = {
        "parameter": files.parameter(MATRIX),
        "state": files.Call(with_state, (plain, True, hooks, {"note": 1})),
        "old": files.Call(old, plain.arguments[:4]),
        "uint16": files.view(bytes_, 0, (3,), (1,), new, False, hooks, dtype),
        "bytes": files.view(bytes_, 0, (6,), (1,)),
        "subclass": files.Call(subclass, (plain.function, kind, plain.arguments, {})),
        "size": files.Call(files.REBUILD, (storage, 0, size, (4, 1), False, hooks, None)),
    }
    same = ["parameter", "state", "old", "subclass", "size"]
    tensors = read(tmp_path, saved(state)).tensors
    assert_same({name: tensors[name] for name in same}, dict.fromkeys(same, MATRIX))
    assert_same({"uint16": tensors["uint16"]}, {"uint16": counts})
    assert_same({"bytes": tensors["bytes"]}, {"bytes": counts.view(np.uint8)})


def test_a_part_of_a_storage_in_very_old_files(tmp_path):
    storage = files.Storage(np.arange(10, dtype=np.float32))
    kind = files.Named("torch", "FloatStorage")
    part = files.Storage(storage.values)
    part.reference = ("storage", kind, "0", "cpu", 10, ("7", 4, 3))
    state = {"a": files.tensor(storage.values), "b": files.view(part, 1, (2,), (1,))}
    checkpoint = read(tmp_path, files.legacy(state))
    assert_same(checkpoint.tensors, {"a": storage.values, "b": storage.values[5:7]})


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_big_endian_archives(tmp_path, dtype):
    storage = files.Storage(np.arange(6).astype(dtype))
    state = {"a": files.view(storage, 1, (2, 2), (1, 3)), "b": files.view(storage, 0, (6,), (1,))}
    checkpoint = read(tmp_path, files.archive(state, byteorder="big"))
    expected = {"a": storage.values[[[1, 4], [2, 5]]], "b": storage.values}
    assert_same(checkpoint.tensors, expected)
    assert np.shares_memory(checkpoint.tensors["a"], checkpoint.tensors["b"])


def training_checkpoint(network, wrapper="state_dict"):
    moments = {"step": files.tensor(np.float32(7)), "exp_avg": files.tensor(MATRIX)}
    return {
        "epoch": 12,
        wrapper: network,
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": collections.defaultdict(list, last=[1.0]),
        "best": files.tensor(np.float64(76.5)),
        "loss": np.float32(0.25),
        "args": argparse.Namespace(lr=0.1, path=Path("x")),
        "dtype": files.Named("torch", "float16"),
    }


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_training_checkpoint(tmp_path, saved, wrapper):
    network = {"a.weight": files.parameter(MATRIX), "a.bias": files.tensor(MATRIX[0])}
    state = training_checkpoint(files.state_dict(**network), wrapper)
    checkpoint = read(tmp_path, saved(state))
    assert_same(checkpoint.tensors, {"a.weight": MATRIX, "a.bias": MATRIX[0]})
    assert checkpoint.opaque == (
        "epoch: int",
        "optimizer: dict of 2",
        "scheduler: dict of 1",
        "best: tensor",
        "loss: NumPy array of f4",
        "args: argparse.Namespace",
        "dtype: the name torch.float16",
    )
    assert checkpoint.files == (tmp_path / "checkpoint",)
    layout = {"archive": "PyTorch archive", "legacy": "legacy PyTorch file"}
    assert checkpoint.layout == layout[saved.__name__]


def names(tmp_path, state):
    return list(read(tmp_path, files.archive(state)).tensors)


def test_which_tensors_are_the_weights(tmp_path):
    one, two = files.tensor(MATRIX), files.tensor(MATRIX)
    assert names(tmp_path, {"a": {"b": one, "c": {"d": two}}}) == ["a.b", "a.c.d"]
    assert names(tmp_path, {"model": {"module": {"a": one}}, "epoch": 1}) == ["a"]
    assert names(tmp_path, {"student": {"a": one}, "teacher": {"a": two}}) == [
        "student.a",
        "teacher.a",
    ]
    assert names(tmp_path, {"model": {"a": one}, "rng": two}) == ["a"]
    pairs = files.Call(files.ORDERED, ([["a", one], ["b", two]],))  # as Python 2 writes it
    assert names(tmp_path, pairs) == ["a", "b"]
    assert names(tmp_path, {"block": {"a": one}, "scale": two}) == ["block.a", "scale"]
    assert names(tmp_path, {"a": one, "list": [two], "numbered": {3: two}}) == ["a"]
    script = files.script_archive(files.script("Net", model=files.script("Inner", a=one)))
    assert list(read(tmp_path, script).tensors) == ["model.a"]


def test_torchscript_modules_of_unknown_parts(tmp_path):
    part = files.Call(files.Named("torch.classes", "Packed"), ())
    inner = files.script("Inner", weight=files.tensor(MATRIX), packed=part, names=["a"])
    ints = files.Call(files.Named("torch.jit._pickle", "build_intlist"), ([1, 2],))
    checkpoint = read(tmp_path, files.script_archive(files.script("Net", inner=inner, sizes=ints)))
    assert_same(checkpoint.tensors, {"inner.weight": MATRIX})
    assert checkpoint.opaque == ("inner.packed: torch.classes.Packed",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_numpy_arrays(tmp_path, protocol):
    objects = np.array([None, "a"], object)
    arrays = {
        "matrix": MATRIX,
        "transposed": MATRIX.T,
        "permuted": np.arange(24, dtype=np.int64).reshape(2, 3, 4).transpose(1, 0, 2),
        "big": MATRIX.astype(">f4"),
        "half": MATRIX.astype(np.float16),
        "brain": MATRIX.astype(ml_dtypes.bfloat16),
        "flags": MATRIX > 3,
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float64(2.5),
        "number": np.array(7),
    }
    model = {**arrays, "objects": objects}
    state = {"model": model, "__author__": "somebody", "matching_heuristics": True}
    checkpoint = read(tmp_path, pickle.dumps(state, protocol=protocol))
    assert checkpoint.layout == "pickle of NumPy arrays"
    arrays["big"] = MATRIX
    assert_same(checkpoint.tensors, {name: np.asarray(value) for name, value in arrays.items()})
    other, *rest = checkpoint.opaque
    assert other.startswith("model.objects: ")
    assert rest == ["__author__: str", "matching_heuristics: bool"]


def test_pickles_of_python_2(tmp_path):
    data = MATRIX.tobytes()
    text = pickle.BINSTRING + len(data).to_bytes(4, "little") + data
    dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNK\x00K\x00K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    array += b"(K\x01(K\x03K\x04t" + dtype + b"\x89" + text + b"tb"
    content = b"\x80\x02}U\x05blobs}U\x01w" + array + b"ss."
    assert_same(read(tmp_path, content).tensors, {"w": MATRIX})


def test_npz(tmp_path):
    arrays = {
        "layer/matrix": MATRIX,
        "fortran": np.asfortranarray(MATRIX),
        "big": MATRIX.astype(">f4"),
        "half": MATRIX.astype(np.float16),
        "empty": np.zeros((0, 3)),
        "number": np.int64(3),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", meta="{}", **arrays)
        checkpoint = read_checkpoint(tmp_path / "a.npz")
        assert checkpoint.layout == "npz" and checkpoint.opaque == ("meta: NumPy array of <U2",)
        expected = {**arrays, "big": MATRIX, "number": np.asarray(3)}
        assert_same(checkpoint.tensors, expected)


SAFE = {
    "half": MATRIX.astype(np.float16),
    "brain": MATRIX.astype(ml_dtypes.bfloat16),
    "empty": np.zeros((0, 3), np.float32),
    "number": np.asarray(np.int64(3)),
}


def test_safetensors(tmp_path):
    checkpoint = read(tmp_path, save_safetensors(SAFE, metadata={"format": "pt"}))
    assert checkpoint.layout == "safetensors"
    assert_same(dict(sorted(checkpoint.tensors.items())), dict(sorted(SAFE.items())))


def test_hugging_face_folders(tmp_path):
    first, second = {"half": SAFE["half"]}, {"brain": SAFE["brain"]}
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / names[0]).write_bytes(save_safetensors(first))
    blob = tmp_path / "blobs" / "1f"  # the cache keeps links in its folders
    blob.parent.mkdir()
    blob.write_bytes(save_safetensors(second))
    (tmp_path / names[1]).symlink_to(blob)
    index = tmp_path / "model.safetensors.index.json"
    places = {"metadata": {}, "weight_map": dict(zip(["half", "brain"], names, strict=True))}
    index.write_text(json.dumps(places, indent=2))
    for path in (tmp_path, index):
        checkpoint = read_checkpoint(path)
        assert checkpoint.layout == "sharded safetensors"
        assert checkpoint.files == (index, tmp_path / names[0], tmp_path / names[1])
        assert_same(checkpoint.tensors, first | second)
    index.unlink()
    (tmp_path / "part.bin").write_bytes(files.archive({"a": files.tensor(MATRIX)}))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.bin"}}))
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint.layout == "sharded PyTorch"
    assert_same(checkpoint.tensors, {"a": MATRIX})
    (tmp_path / "pytorch_model.bin").write_bytes(files.legacy({"b": files.tensor(MATRIX)}))
    assert list(read_checkpoint(tmp_path).tensors) == ["b"]
    (tmp_path / "model.safetensors").write_bytes(save_safetensors(SAFE))
    assert read_checkpoint(tmp_path).layout == "safetensors"


def test_large_files_stay_on_the_disk(tmp_path):
    values = np.zeros(4 << 20, np.float32)
    path = tmp_path / "large.pt"
    for content in (
        files.archive({"a": files.tensor(values)}),
        files.legacy({"a": files.tensor(values)}),
        save_safetensors({"a": values}),
    ):
        path.write_bytes(content)
        tracemalloc.start()
        checkpoint = read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        tracemalloc.stop()
        assert checkpoint.tensors["a"].nbytes == 16 << 20


def test_strip_prefix():
    tensors = {"module.a": MATRIX, "module.b": MATRIX, "c": MATRIX}
    assert list(strip_prefix(tensors, "module.")) == ["a", "b", "c"]
    assert list(strip_prefix(tensors, "module.", keep_others=False)) == ["a", "b"]
    with pytest.raises(UserError, match="has a with and without module"):
        strip_prefix({"a": MATRIX, "module.a": MATRIX}, "module.")


def test_files_of_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = {
        "base": base,
        "view": base.transpose(0, 2)[1:],
        "expanded": torch.ones(1).expand(3, 2),
        "half": base.half(),
        "brain": base.bfloat16(),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base),
        "flags": base > 3,
    }
    optimizer = torch.optim.Adam([torch.nn.Parameter(base)])
    for zip_format in (True, False):
        saved = {"model": state, "optimizer": optimizer.state_dict(), "epoch": 1}
        torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zip_format)
        given = read_checkpoint(tmp_path / "a.pt").tensors
        assert given.keys() == state.keys() and given["brain"].dtype == ml_dtypes.bfloat16
        for name, value in state.items():
            expected = value.detach().to(torch.float64).numpy()
            np.testing.assert_array_equal(given[name].astype(np.float64), expected)
    module = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 3)))
    torch.jit.save(module, tmp_path / "b.pt")
    given = read_checkpoint(tmp_path / "b.pt")
    assert given.layout == "TorchScript archive"
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(given.tensors[name], value.numpy())


def test_suffixes_mean_nothing(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(files.archive({"a": files.tensor(MATRIX)}))
    assert read_checkpoint(tmp_path / "a.safetensors").layout == "PyTorch archive"
    (tmp_path / "a.npz").write_bytes(save_safetensors(SAFE))
    assert read_checkpoint(tmp_path / "a.npz").layout == "safetensors"
