import dataclasses

import numpy as np
import pytest

from ovseg_jax.convert.vit import DINO_MAP, dino_config, dino_map
from ovseg_jax.errors import UserError
from ovseg_jax.networks.vit import DINO_SIZES, DinoConfig
from ovseg_jax.params import abstract_model


def official(config: DinoConfig, prefix: str = "") -> dict[str, np.ndarray]:
    """Tensors as the authors' checkpoints name and shape them, all zero."""
    width, patch = config.width, config.patch_size
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + config.grid**2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if config.layer_scale:
        shapes["mask_token"] = (1, width)
    if config.registers:
        shapes["register_tokens"] = (1, config.registers, width)
    for i in range(config.layers):
        block = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
        if config.layer_scale:
            block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return {prefix + name: np.broadcast_to(np.float32(0), s) for name, s in shapes.items()}


@pytest.mark.parametrize("name", DINO_SIZES)
def test_sizes_are_read_off_the_tensors(name):
    assert dino_config(official(DINO_SIZES[name])) == DINO_SIZES[name]


@pytest.mark.parametrize(
    "config",
    [
        DinoConfig(24, 4, width=12, layers=2, heads=3),
        DinoConfig(28, 14, width=8, layers=1, heads=2, layer_scale=True),
        DinoConfig(28, 14, width=8, layers=3, heads=1, layer_scale=True, registers=5),
    ],
)
def test_there_and_back(config):
    rng = np.random.default_rng(0)
    theirs = {
        name: rng.normal(size=tensor.shape).astype(np.float32)
        for name, tensor in official(config, "vfm.").items()
    }
    assert dino_config(theirs, "vfm.", heads=config.heads) == config
    _, params, _ = abstract_model(lambda rngs: config.build(rngs=rngs))
    shapes = {f"net/{path}": leaf.shape for path, leaf in params.items()}
    name_map = dino_map("vfm.", "net/")
    ours = name_map.inward(theirs, shapes)
    query = theirs["vfm.blocks.0.attn.qkv.weight"][: config.width]
    np.testing.assert_array_equal(ours["net/blocks/0/attention/query/kernel"], query.T)
    back = name_map.outward(ours)
    theirs.pop("vfm.mask_token", None)
    assert back.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value)


def test_a_foreign_tensor_is_named():
    config = DinoConfig(8, 4, width=8, layers=1, heads=1)
    theirs = official(dataclasses.replace(config, layers=1)) | {"head.weight": np.zeros((5, 8))}
    with pytest.raises(UserError, match=r"DINO checkpoint does not fit .*head\.weight"):
        DINO_MAP.inward(theirs)
