"""Every recipe builds what it describes; a new file in `configs/` is covered by being there."""

import functools
import importlib
import inspect
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from data_pipelines.datasets import DATASETS
from data_pipelines.sources import SOURCES
from data_pipelines.transforms import create_transforms
from ovseg_jax.inference import Protocol
from ovseg_jax.networks.training_free import method_options
from ovseg_jax.params import split_model
from ovseg_jax.systems import create_system
from ovseg_jax.text.label_space import LabelSpace, load_label_space
from ovseg_jax.text.templates import load_templates
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import group_index, split_trainable

ROOT = Path(__file__).parents[1]

# ZegCLIP, table 2 of the paper: pAcc, mIoU(S), mIoU(U), hIoU.
PUBLISHED = {
    "voc_inductive": (94.6, 91.9, 77.8, 84.3),
    "voc_transductive": (96.2, 92.3, 89.9, 91.1),
    "voc_full": (96.3, 92.4, 90.9, 91.6),
    "coco_stuff_inductive": (62.0, 40.2, 41.1, 40.8),
    "coco_stuff_transductive": (69.2, 40.7, 59.9, 48.5),
    "coco_stuff_full": (69.9, 40.7, 63.2, 49.6),
    "context_inductive": (76.2, 46.0, 54.6, 49.9),
    "context_transductive": (77.2, 46.6, 65.4, 54.4),
}
# Prompts, classes that compete in training, steps, where it starts.
RECIPES = {
    "voc_inductive": (10, 15, 20_000, "models/clip_vit_b16"),
    "voc_transductive": (10, 20, 10_000, "runs/zegclip_voc_inductive"),
    "voc_full": (10, 20, 20_000, "models/clip_vit_b16"),
    "coco_stuff_inductive": (100, 156, 80_000, "models/clip_vit_b16"),
    "coco_stuff_transductive": (100, 171, 40_000, "runs/zegclip_coco_stuff_inductive"),
    "coco_stuff_full": (100, 171, 80_000, "models/clip_vit_b16"),
    "context_inductive": (10, 50, 40_000, "models/clip_vit_b16"),
    "context_transductive": (10, 60, 20_000, "runs/zegclip_context_inductive"),
    "context_full": (10, 60, 40_000, "models/clip_vit_b16"),
}


def load(path: Path):
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


# Of `system`, what changes no parameter.
NO_SIZES = {"setting", "method", "options", "logit_scale", "window_multiple"}


def variants():
    """Every recipe with every value of its string argument: those that stand beside the default."""
    for path in sorted((ROOT / "configs").rglob("*.py")):
        if path.name == "common.py":
            continue
        module = load(path)
        arguments = inspect.signature(module.get_config).parameters.values()
        for default in [a.default for a in arguments] or [None]:
            values = vars(module).values()
            choices = (value for value in values if isinstance(value, tuple) and default in value)
            for choice in next(choices, (None,)):
                name = f"{path.parent.name}/{path.stem}" + (f":{choice}" if choice else "")
                yield pytest.param(module, choice, id=name)


every_recipe = pytest.mark.parametrize(("module", "argument"), list(variants()))
zegclip_recipes = pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "configs" / "zegclip").glob("*.py"))
)


def get_config(module, argument) -> ConfigDict:
    return (module.get_config(argument) if argument else module.get_config()).lock()


def network_sizes(config: ConfigDict) -> str:
    system = config.system.to_dict()
    chosen = {}
    if system["name"] == "training_free":  # a method that fits the networks, whatever their own
        chosen["method"] = "proxyclip" if "proxy" in system else "maskclip_original"
    return json.dumps({k: v for k, v in system.items() if k not in NO_SIZES} | chosen)


@functools.cache
def abstract_system(system: str, dtype: str):
    """Shapes and groups, once for the recipes that share them: building ViT-B/16 takes seconds."""
    image = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    config = ConfigDict({"system": json.loads(system), "dtype": dtype, "image": image})
    model = nnx.eval_shape(lambda: create_system(config, nnx.Rngs(0)))
    return split_model(model)[1], model.param_groups()


@every_recipe
def test_model_and_optimizer_fit_together(module, argument):
    config = get_config(module, argument)
    params, groups = abstract_system(network_sizes(config), config.dtype)
    used = {group_index(path, groups) for path in params} - {None}
    assert used == set(range(len(groups)))  # a rule without parameters is misspelt
    assert bool(groups) == ("train" in config)
    if not groups:
        return
    trainable, frozen = split_trainable(params, groups)
    optimizer = build_optimizer(
        config.optimizer, config.schedule, config.train.steps, groups, trainable
    )
    state = jax.eval_shape(optimizer.init, trainable)
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    assert sum(sizes) >= sum(leaf.size for leaf in trainable.values())
    assert frozen.keys() | trainable.keys() == params.keys()


@every_recipe
def test_words_resolve(module, argument):
    config = get_config(module, argument)
    space = load_label_space(config.vocabulary.label_space)
    assert space.subset(config.vocabulary.train_subset or "all")
    assert all("{}" in template for template in load_templates(config.vocabulary.templates))


@every_recipe
def test_data_resolve(module, argument):
    config = get_config(module, argument)
    for name, data in config.data.items():
        create_transforms(tuple(data.transforms), tokenizer=lambda texts: [[0] for _ in texts])
        fields = data.source.to_dict()
        source_module, source = SOURCES[fields.pop("name")].split(":")
        signature = inspect.signature(getattr(importlib.import_module(source_module), source))
        signature.bind(**fields)
        assert name in ("train", "eval", "retrieval", "zero_shot", "regions")
    Protocol.from_config(config.eval)


@every_recipe
def test_sections_are_complete_and_of_plain_values(module, argument):
    config = get_config(module, argument)
    if "train" in config:
        assert {"steps", "batch_size", "log_every", "checkpoint_every"} <= set(config.train.keys())
        assert config.train.steps > config.schedule.warmup_steps
    assert np.shape(config.image.mean) == np.shape(config.image.std) == (3,)
    assert "Config" not in config.to_json_best_effort()
    assert f"--config configs/{Path(module.__file__).parent.name}/" in module.__doc__


def zegclip(name: str):
    return load(ROOT / "configs" / "zegclip" / f"{name}.py")


def assert_labels_fit(source: ConfigDict, words: LabelSpace):
    """A source's labels are the classes that the words name."""
    fields = source.to_dict()
    root, split = fields.pop("root"), fields.pop("split")
    dataset = next(known for known in DATASETS.values() if known.source == fields)
    assert root == f"data/{dataset.folder}" and split in dataset.splits
    space = load_label_space(dataset.label_space)
    assert (len(space), space.ignore_label) == (len(words), words.ignore_label)


@zegclip_recipes
def test_published_figures(name):
    text = zegclip(name).__doc__
    figures = re.search(
        r"([\d.]+) pAcc, ([\d.]+) mIoU\(S\), ([\d.]+) mIoU\(U\), ([\d.]+) hIoU", text
    )
    assert (figures is not None) == (name in PUBLISHED)
    if figures:
        assert tuple(map(float, figures.groups())) == PUBLISHED[name]


@zegclip_recipes
def test_published_recipes(name):
    module = zegclip(name)
    config = module.get_config()
    assert config.system.setting == name.rpartition("_")[2]
    assert config.train.batch_size == 16
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay) == (
        "adamw",
        2e-4,
        0.01,
    )
    schedule = config.schedule.to_dict()
    assert schedule == dict(
        name="poly",
        warmup="linear",
        warmup_steps=1500,
        warmup_ratio=1e-6,
        power=0.9,
        min_lr=1e-6,
    )
    assert (config.eval.short_side, config.eval.crop, config.eval.stride) == (512, 512, 426)
    assert f"{config.train.steps} steps" in module.__doc__
    space = load_label_space(config.vocabulary.label_space)
    for data in config.data.values():
        assert_labels_fit(data.source, space)
    if name in RECIPES:
        classes = len(space.subset(config.vocabulary.train_subset))
        found = (config.system.prompt_tokens, classes, config.train.steps, config.pretrained)
        assert found == RECIPES[name]


# --- Training-free methods: the table of their authors' settings ------------------------------

# Short side, window, stride, scale, threshold, area; where a data set departs from the first row.
SETTINGS = {
    "sclip": {
        "": (336, 224, 112, 40, 0, 0),
        "voc21": (336, 224, 112, 65, 0.1, 0.1),
        "context60": (336, 224, 112, 50, 0.1, 0),
        "coco_object": (336, 224, 112, 50, 0.1, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
        "coco_stuff": (448, 224, 112, 40, 0, 0),
    },
    "naclip": {
        "": (336, 224, 112, 40, 0, 0),
        "voc21": (336, 0, 0, 40, 0.1, 0),
        "voc20": (336, 0, 0, 40, 0, 0),
        "context60": (336, 224, 112, 40, 0.1, 0),
        "coco_object": (336, 224, 112, 40, 0.1, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
    },
    "clearclip": {
        "": (448, 448, 224, 50, 0, 0),
        "voc21": (448, 448, 224, 50, 0.5, 0),
        "context60": (448, 448, 224, 50, 0.15, 0),
        "coco_object": (448, 448, 224, 50, 0.4, 0),
        "cityscapes": (448, 224, 224, 50, 0, 0),
    },
    "proxyclip": {
        "": (336, 336, 112, 40, 0, 0),
        "voc21": (336, 336, 112, 40, 0.2, 0),
        "context60": (336, 336, 112, 40, 0.15, 0),
        "coco_object": (336, 336, 112, 40, 0.25, 0),
        "cityscapes": (448, 224, 112, 40, 0, 0),
        **dict.fromkeys(("ade150", "ade847", "context459"), (448, 336, 112, 40, 0, 0)),
    },
    "maskclip_original": {"": (512, 0, 0, 1, 0, 0)},
}
TRAINING_FREE = sorted(
    path.stem for path in (ROOT / "configs" / "training_free").glob("*.py") if path.stem != "common"
)


@pytest.mark.parametrize("name", TRAINING_FREE)
def test_training_free_settings(name):
    module = load(ROOT / "configs" / "training_free" / f"{name}.py")
    for method, rows in SETTINGS.items():
        if method not in module.METHODS:
            continue
        config = module.get_config(method)
        section = config.eval
        found = (section.short_side, section.crop, section.stride, config.system.logit_scale)
        assert (*found, section.threshold, section.area) == rows.get(name, rows[""])
        assert section.long_side == 2048 and section.batch_size == 1
        assert section.pamr_steps == (10 if method == "naclip" else 0)
        assert tuple(section.pamr_dilations) == (8, 16)
        space = load_label_space(config.vocabulary.label_space)
        assert_labels_fit(config.data.eval.source, space)
        assert not section.threshold or space.background == 0
        assert set(config.system.options) <= method_options(config.system.method)
    with pytest.raises(ValueError, match="method trident is none of"):
        module.get_config("trident")


def test_baselines_go_by_the_protocol_that_they_were_published_in():
    module = load(ROOT / "configs" / "training_free" / "voc20.py")
    wanted = module.get_config("clearclip")
    for method in ("clip", "maskclip", "gem"):
        config = module.get_config(method)
        assert (config.eval, config.vocabulary) == (wanted.eval, wanted.vocabulary)
        assert config.system.window_multiple == wanted.system.window_multiple == 16
    assert module.get_config("proxyclip").system.window_multiple == 56
    original = module.get_config("maskclip_original")
    assert (original.system.clip.image.activation, original.system.clip.image.norm_eps) == (
        "gelu",
        1e-6,
    )
    assert original.vocabulary.templates == "maskclip85" and original.eval.pad_patches


# --- zsseg: the table of its authors' settings --------------------------------------------------

# Weight of the ensemble, threshold, batch, steps, short and long side, classes in training.
COCO, VOC = (0.8, 0.5, 32, 60_000, 640, 2560), (0.7, 0.5, 16, 20_000, 512, 2048)
ZSSEG = {
    "coco_stuff:learned": (*COCO, 156),
    "coco_stuff:rn50x4": (*COCO, 156),
    "coco_stuff:r50_vild": (*COCO, 156),
    "coco_stuff:self_training": (*COCO, 171),
    "coco_stuff_full:r101c": (*COCO, 171),
    "voc:learned": (*VOC, 15),
    "voc:single": (*VOC, 15),
    "voc:self_training": (*VOC, 20),
    "voc_full:r50": (*VOC, 20),
    "cross_dataset:coco_stuff": (0.8, 0.5, 32, 120_000, 640, 2560, 156),
}
# Weight, threshold and short side of an evaluation elsewhere, and the published words.
ELSEWHERE = {
    "ade150": (0.5, 0.4, 512, "ade150"),
    "ade847": (0.7, 0.3, 512, "ade847"),
    "cityscapes": (0.4, 0.3, 1024, "cityscapes19"),
    "context59": (0.4, 0.5, 512, "context59_zsseg"),
    "voc20": (0.4, 0.5, 512, "voc_15_5_zsseg"),
}


def zsseg(name: str) -> ConfigDict:
    recipe, _, variant = name.partition(":")
    return load(ROOT / "configs" / "zsseg" / f"{recipe}.py").get_config(variant)


@pytest.mark.parametrize("name", ZSSEG)
def test_zsseg_settings(name):
    config = zsseg(name)
    system, train, section = config.system, config.train, config.eval
    found = (system.ensemble_weight, system.mask_threshold, train.batch_size, train.steps)
    space = load_label_space(config.vocabulary.label_space)
    classes = len(space.subset(config.vocabulary.train_subset))
    assert (*found, section.short_side, section.long_side, classes) == ZSSEG[name]
    assert system.ensemble == ("full" not in name)
    assert section.metrics == "detectron2_legacy" and section.antialias and not section.crop
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.clip_norm) == (1e-4, 1e-4, 0.01)
    source = config.data.train.source
    # COCO-Stuff's version of the seen classes lacks pictures without any of them.
    assert source.subset == ("seen" if classes == 156 else "all")
    assert bool(source.labels) == name.endswith("self_training")
    size, longest = (512, 2048) if name.startswith("voc") else (640, 2560)
    resize = config.data.train.transforms[0]
    assert (resize["size"], resize["max_size"]) == ((size, size), longest)
    assert resize["short_edges"] == tuple(range(320, 961, 64))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_zsseg_goes_by_other_rules_on_other_data(name):
    config = zsseg(f"cross_dataset:{name}")
    weight, threshold, short_side, words = ELSEWHERE[name]
    assert (config.system.ensemble_weight, config.system.mask_threshold) == (weight, threshold)
    assert (config.eval.short_side, config.eval.long_side) == (short_side, 2048)
    space = load_label_space(DATASETS[config.eval.dataset].label_space)
    assert space.classes == load_label_space(words).classes
    assert not space.seen and not space.unseen  # all count as unseen
