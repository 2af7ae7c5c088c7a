"""Recipes of real data sets, from their own files, on twins: a training step and an evaluation.

Networks are made tiny; data, words, windows, losses and optimizers are the recipe's. A part of the
recipes runs by default, all of them with

  OVSEG_ALL_TWINS=1 python -m pytest tests/test_recipes_on_twins.py
"""

import importlib
import os
from pathlib import Path

import pytest

from data_pipelines.datasets import DATASETS, prepare
from ovseg_jax.evaluate import evaluate_run
from ovseg_jax.train import train

ROOT = Path(__file__).parents[1]
SOME = {
    "zegclip/voc_inductive",
    "zegclip/coco_stuff_transductive",
    "training_free/context60",
    "training_free/cityscapes",
}
TINY_CLIP = {
    "embed_dim": 32,
    "image.width": 32,
    "image.layers": 2,
    "image.heads": 2,
    "text.width": 16,
    "text.layers": 1,
    "text.heads": 2,
}
TINY_ZEGCLIP = {
    "prompt_tokens": 2,
    "prompt_depth": 1,
    "decoder_layers": 1,
    "decoder_heads": 2,
    "decoder_hidden": 16,
}


def recipes():
    """Names of the recipes whose data set has a twin."""
    for path in sorted((ROOT / "configs").glob("*/*.py")):
        name = f"{path.parent.name}/{path.stem}"
        if path.parent.name != "shapes" and path.stem != "common":
            skipped = name not in SOME and not os.environ.get("OVSEG_ALL_TWINS")
            marks = [pytest.mark.skip(reason="one of the others")] if skipped else []
            yield pytest.param(name, id=name, marks=marks)


def tiny_recipe(name: str, twin: Path):
    """The default variant of a recipe, tiny and pointed at a twin."""
    config = importlib.import_module(f"configs.{name.replace('/', '.')}").get_config()
    tiny = {f"system.clip.{key}": value for key, value in TINY_CLIP.items()}
    if config.system.name == "zegclip":
        tiny |= {f"system.{key}": value for key, value in TINY_ZEGCLIP.items()}
        tiny |= {"train.batch_size": 2, "train.steps": 1}
    if config.system.name == "prompt_learning":
        tiny |= {"train.batch_size": 2, "train.steps": 1, "eval.batch_size": 2}
        tiny |= {"system.prefix": 2, "data.train.source.per_class": 1}
    for part in config.data:
        tiny[f"data.{part}.source.root"] = str(twin)
    tiny |= {"pretrained": "", "eval.report_images": 1, "vocabulary.templates": "single"}
    config.update_from_flattened_dict(tiny)
    return config


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_trains_and_evaluates_on_a_twin(name, tmp_path):
    config = tiny_recipe(name, tmp_path / "twin")
    source = config.data.eval.source.name
    family = next(d.preparation for d in DATASETS.values() if d.source["name"] == source)
    prepare(family, tmp_path / "twin", None, 2)
    train(config, tmp_path / "run")
    result = evaluate_run(config, tmp_path / "run")
    assert result["images"] == 2
    assert 0 <= result["mIoU"] <= 100
    assert (tmp_path / "run" / "report" / "index.html").is_file()
