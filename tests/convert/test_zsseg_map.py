"""zsseg's tensors, as published models list them."""

import dataclasses
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs.zsseg.coco_stuff import get_config as coco_stuff
from configs.zsseg.prompt_coco_stuff import get_config as prompt_coco_stuff
from configs.zsseg.voc import get_config as voc
from ovseg_jax.convert.layouts import Layout, Source, find_layout
from ovseg_jax.convert.zsseg import (
    PROMPT_MAP,
    QUERY_ADAPTER,
    REGION_ADAPTER,
    check_second_clip,
    segmenter_map,
)
from ovseg_jax.errors import UserError
from ovseg_jax.params import split_model
from ovseg_jax.systems import create_system
from ovseg_jax.systems.system import System
from ovseg_jax.training.partition import group_index

LISTS = Path(__file__).parents[1] / "golden" / "zsseg" / "state_dicts.json"
# Of each list: its layout here and the recipe that it comes from.
PUBLISHED = {
    "coco156_r101c_learned_prompt": ("zsseg", coco_stuff("learned")),
    "coco156_r50_vild_prompt": ("zsseg", coco_stuff("r50_vild")),
    "voc15_r101c": ("zsseg with a second adapter", voc("learned")),
    "prompt_training": ("zsseg's prompt learning", prompt_coco_stuff()),
}
CLIP_PARAMETERS = 149_620_737


class Published(NamedTuple):
    """A published checkpoint whose tensors take no memory."""

    name: str
    listed: dict
    entries: dict[str, dict]
    tensors: dict[str, np.ndarray]
    layout: Layout
    sections: ConfigDict
    system: System
    params: dict
    stats: dict


def expanded(rows: list) -> dict[str, dict]:
    """`{name: {shape, kind, rates}}` of a list in which numbered names share a line."""
    listed = {}
    for (kind, *rates), names in rows:
        for pattern, ranges, shape in names:
            numbers = [n for first, last in ranges or [(0, 0)] for n in range(first, last + 1)]
            for number in numbers:
                name = pattern.replace("#", str(number), 1)
                listed[name] = dict(shape=tuple(shape), kind=kind, rates=tuple(rates))
    return listed


def flattened(section, prefix=""):
    """Fields of a section by dotted name; its lists as tuples."""
    found = {}
    for key, value in section.items():
        if isinstance(value, ConfigDict):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = tuple(value) if isinstance(value, list) else value
    return found


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
    name = request.param
    listed = json.loads(LISTS.read_text())[name]
    entries = expanded(listed["tensors"])
    # One repeated number, whatever the shape.
    tensors = {key: np.broadcast_to(np.float32(0.1), e["shape"]) for key, e in entries.items()}
    layout = find_layout(tensors, name)
    sections = layout.config(Source(tensors, {}))
    system = nnx.eval_shape(lambda: create_system(sections, nnx.Rngs(0)))
    _, params, stats = split_model(system)
    return Published(name, listed, entries, tensors, layout, sections, system, params, stats)


def test_every_tensor_has_its_place_and_comes_back(published):
    layout, _ = PUBLISHED[published.name]
    assert published.layout.name == layout
    shapes = {path: leaf.shape for path, leaf in {**published.params, **published.stats}.items()}
    ours = published.layout.name_map.inward(published.tensors, shapes)
    back = published.layout.name_map.outward(ours)
    back |= published.layout.derived(back, published.sections.to_dict())
    assert {name: array.shape for name, array in back.items()} == {
        name: entry["shape"] for name, entry in published.entries.items()
    }


def test_sizes_and_protocol_are_those_of_the_recipe(published):
    _, recipe = PUBLISHED[published.name]
    for section in ("system", "image", "vocabulary", "eval"):
        ours, theirs = (flattened(config[section]) for config in (published.sections, recipe))
        common = ours.keys() & theirs.keys() - {"label_space", "train_subset", "batch_size"}
        assert {key: ours[key] for key in common} == {key: theirs[key] for key in common}
        sizes = {key for key in theirs if key.startswith(("clip.", "maskformer."))}
        assert sizes <= common


def test_what_trains_and_how(published):
    """Rates and decays as listed.

    The list calls trainable what the optimizer is given. Of the second adapter nothing gets a
    gradient, for the loss only knows the queries' names: here it is frozen.
    """
    _, recipe = PUBLISHED[published.name]
    if published.name == "coco156_r101c_learned_prompt":  # listed as trained without a first stage
        config = dataclasses.replace(published.system.config, learn_prompt=True)
        published.system.config = config
    groups = published.system.param_groups()
    for name, entry in published.entries.items():
        for path in published.layout.name_map.paths(name):
            group = group_index(path, groups)
            if entry["kind"] == "trainable" and not name.startswith(REGION_ADAPTER):
                found = groups[group]
                decay = found.weight_decay * recipe.optimizer.weight_decay
                assert (found.lr, decay) == entry["rates"], name
            else:
                assert group is None or path in published.stats, name
            assert (path in published.stats) == (entry["kind"] == "buffer"), name


def test_numbers_of_parameters(published):
    total = sum(math.prod(leaf.shape) for leaf in published.params.values())
    copies = CLIP_PARAMETERS if published.name == "voc15_r101c" else 0
    assert total + copies == published.listed["total_parameters"]


def test_the_second_clip_must_be_a_copy():
    one = {f"{QUERY_ADAPTER}clip_model.proj": np.zeros(2)}
    check_second_clip(one | {f"{REGION_ADAPTER}clip_model.proj": np.zeros(2)})
    with pytest.raises(UserError, match=r"clip_model\.proj differs from clip_adapter"):
        check_second_clip(one | {f"{REGION_ADAPTER}clip_model.proj": np.ones(2)})
    with pytest.raises(UserError, match="not trained with a frozen CLIP"):
        check_second_clip({f"{REGION_ADAPTER}clip_model.proj": np.zeros(2)})


def test_regions_prompts_leave_no_place_for_those_of_queries():
    name = f"{QUERY_ADAPTER}prompt_learner.prefix_prompt"
    assert segmenter_map().paths(name) == ("prompt/prefix",)
    assert segmenter_map(own_prompts=True).paths(name) is None


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
