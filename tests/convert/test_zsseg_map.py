"""Names of zsseg's CLIP adapters."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovseg_jax.convert.name_map import NameMap
from ovseg_jax.convert.zsseg import (
    PROMPT_MAP,
    QUERY_ADAPTER,
    REGION_ADAPTER,
    adapter_dropped,
    adapter_rules,
)
from ovseg_jax.networks.clip import CLIP_SIZES
from ovseg_jax.params import abstract_model
from ovseg_jax.systems.prompt_learning import PromptLearning, PromptLearningConfig

STATE_DICTS = Path(__file__).parents[3] / "shared" / "data" / "state_dicts"
beside = pytest.mark.skipif(
    not STATE_DICTS.is_dir(), reason="the lists of names lie beside the clone"
)


def listed(name):
    tensors = json.loads((STATE_DICTS / f"{name}.json").read_text())["tensors"]
    # Arrays of one repeated number take no memory.
    return {k: np.broadcast_to(np.float32(0), t["shape"]) for k, t in tensors.items()}


@beside
def test_checkpoints_of_the_first_stage():
    config = PromptLearningConfig(CLIP_SIZES["ViT-B/16"])
    _, params, _ = abstract_model(lambda rngs: PromptLearning(config, rngs=rngs))
    PROMPT_MAP.inward(listed("zsseg_prompt_training"), {k: v.shape for k, v in params.items()})


@beside
@pytest.mark.parametrize(
    "file",
    ["zsseg_coco156_r101c_learned_prompt", "zsseg_coco156_r50_vild_prompt", "zsseg_voc15_r101c"],
)
def test_every_tensor_of_an_adapter_has_its_place(file):
    adapters = {QUERY_ADAPTER: "", REGION_ADAPTER: "region/"}
    name_map = NameMap(
        "adapters",
        tuple(row for adapter in adapters.items() for row in adapter_rules(*adapter)),
        tuple(name for adapter in adapters for name in adapter_dropped(adapter)),
    )
    tensors = {k: v for k, v in listed(file).items() if k.startswith(tuple(adapters))}
    params = name_map.inward(tensors)
    assert params["no_object"].shape == (1, 512)
    assert ("region/no_object" in params) == (file == "zsseg_voc15_r101c")
    learned = {path for path in params if path.endswith("prompt/prefix")}
    expected = {"learned_prompt": {"prompt/prefix"}, "vild_prompt": set()}
    assert learned == next(
        (paths for end, paths in expected.items() if file.endswith(end)), {"region/prompt/prefix"}
    )


def test_prompts_go_there_and_back():
    theirs = {
        "clip_adapter.prompt_learner.prefix_prompt": np.ones((3, 4), np.float32),
        "clip_adapter.prompt_learner.suffix_prompt": np.zeros((2, 4), np.float32),
    }
    ours = PROMPT_MAP.inward(theirs | {"clip_adapter.prompt_learner.dot_signal": np.ones((1, 4))})
    assert {path: value.shape for path, value in ours.items()} == {
        "prompt/prefix": (3, 4),
        "prompt/suffix": (2, 4),
    }
    assert PROMPT_MAP.outward(ours).keys() == theirs.keys()
