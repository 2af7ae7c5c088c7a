import json
from pathlib import Path

import numpy as np
import pytest

from ovseg_jax.convert import name_map as maps
from ovseg_jax.convert.clip import CLIP_MAP, CLIP_RESNET_MAP, clip_config
from ovseg_jax.errors import UserError
from ovseg_jax.networks.clip import CLIP_SIZES
from ovseg_jax.params import abstract_model
from ovseg_jax.systems.clip import ClipSystem, ClipSystemConfig

STATE_DICTS = Path(__file__).parents[3] / "shared" / "data" / "state_dicts"

MAP = maps.NameMap(
    source="toy",
    rules=(
        *maps.fused_attention("layers.{i}.attn", "blocks/{i}/attention"),
        *maps.affine("norm", "norm"),
        maps.rule("conv.weight", "conv/kernel", maps.CONV),
        maps.rule("token", "token", maps.SQUEEZE),
    ),
    dropped=("buffers.{i}.count",),
    absent=("unused",),
)


def tensors():
    rng = np.random.default_rng(0)
    shapes = {
        "layers.0.attn.in_proj_weight": (12, 4),
        "layers.0.attn.in_proj_bias": (12,),
        "layers.0.attn.out_proj.weight": (4, 4),
        "layers.0.attn.out_proj.bias": (4,),
        "norm.weight": (4,),
        "norm.bias": (4,),
        "conv.weight": (4, 3, 2, 5),
        "token": (1, 4),
        "buffers.7.count": (),
    }
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_there_and_back():
    theirs = tensors()
    ours = MAP.inward(theirs)
    assert ours["conv/kernel"].shape == (2, 5, 3, 4)
    query = theirs["layers.0.attn.in_proj_weight"][:4]
    np.testing.assert_array_equal(ours["blocks/0/attention/query/kernel"], query.T)
    key_bias = theirs["layers.0.attn.in_proj_bias"][4:8]
    np.testing.assert_array_equal(ours["blocks/0/attention/key/bias"], key_bias)
    back = MAP.outward(ours | {"unused": np.zeros(3)})
    del theirs["buffers.7.count"]
    assert back.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value)


def test_paths():
    assert MAP.paths("norm.weight") == ("norm/scale",)
    assert MAP.paths("layers.11.attn.in_proj_bias")[1] == "blocks/11/attention/key/bias"
    assert MAP.paths("buffers.3.count") == ()
    assert MAP.paths("layers.x.attn.in_proj_bias") is None


def test_every_misfit_is_listed_at_once():
    theirs = tensors()
    shapes = {path: value.shape for path, value in MAP.inward(theirs).items()} | {"unused": (3,)}
    assert MAP.inward(theirs, shapes).keys() == shapes.keys() - {"unused"}
    del theirs["norm.bias"]
    theirs |= {"norm.weight": np.zeros(5), "extra.a": np.zeros(1), "extra.b": np.zeros(1)}
    with pytest.raises(UserError) as error:
        MAP.inward(theirs, shapes)
    for part in ("2 tensors", "extra.a, extra.b", "norm/bias", "norm/scale (5,) instead of (4,)"):
        assert part in str(error.value)


def test_outward_needs_all_parts_of_a_fused_tensor():
    ours = MAP.inward(tensors())
    del ours["blocks/0/attention/key/bias"]
    with pytest.raises(UserError, match="blocks/0/attention/key/bias"):
        MAP.outward(ours)
    with pytest.raises(UserError, match="unheard"):
        MAP.outward({"unheard": np.zeros(1)})


@pytest.mark.skipif(not STATE_DICTS.is_dir(), reason="the lists of names lie beside the clone")
@pytest.mark.parametrize(
    ("file", "size"),
    [
        ("clip_vit_b16", "ViT-B/16"),
        ("clip_vit_l14_336", "ViT-L/14@336px"),
        ("clip_rn50", "RN50"),
        ("clip_rn101", "RN101"),
        ("clip_rn50x4", "RN50x4"),
    ],
)
def test_released_clip_state_dicts(file, size):
    listed = json.loads((STATE_DICTS / f"{file}.json").read_text())
    # Arrays of one repeated number take no memory.
    theirs = {name: np.broadcast_to(np.float32(0), shape) for name, shape in listed.items()}
    config = clip_config(theirs)
    assert config == CLIP_SIZES[size]
    _, params, stats = abstract_model(
        lambda rngs: ClipSystem(ClipSystemConfig(clip=config), rngs=rngs)
    )
    name_map = CLIP_RESNET_MAP if size.startswith("RN") else CLIP_MAP
    name_map.inward(theirs, {path: leaf.shape for path, leaf in {**params, **stats}.items()})
