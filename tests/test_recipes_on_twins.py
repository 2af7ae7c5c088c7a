"""Recipes of real data sets, from their own files, on twins: a training step and an evaluation.

Networks are made tiny; data, words, windows, losses and optimizers are the recipe's. A part of the
recipes runs by default, all of them with

  OVSEG_ALL_TWINS=1 python -m pytest tests/test_recipes_on_twins.py
"""

import importlib
import os
from pathlib import Path

import pytest
import tiny

from configs.clip.captions import DATASETS as CAPTION_DATASETS
from data_pipelines.datasets import DATASETS, prepare
from ovseg_jax.evaluate import evaluate_run
from ovseg_jax.text.templates import load_templates
from ovseg_jax.train import train

pytestmark = pytest.mark.usefixtures("compiling_fast")

ROOT = Path(__file__).parents[1]
SOME = {
    "zegclip/voc_inductive",
    "zegclip/coco_stuff_transductive",
    "training_free/context60",
    "training_free/cityscapes",
    "clip/captions",
    "zsseg/voc",
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
TINY_SYSTEMS = {
    "prompt_learning": {"prefix": 2},
    "zsseg": {"maskformer": tiny.MASKFORMER, "class_hidden": 8, "region_size": 32},
    "zsseg_pixels": {"backbone": tiny.BACKBONE, "pixel_decoder": tiny.PIXEL_DECODER},
    "zegclip": {
        "prompt_tokens": 2,
        "prompt_depth": 1,
        "decoder_layers": 1,
        "decoder_heads": 2,
        "decoder_hidden": 16,
    },
}


def recipes():
    """Names of the recipes whose data set has a twin; by data set, if one recipe serves several."""
    for path in sorted((ROOT / "configs").glob("*/*.py")):
        recipe = f"{path.parent.name}/{path.stem}"
        if path.parent.name == "shapes" or path.stem == "common":
            continue
        by_dataset = tuple(f"{recipe}:{name}" for name in CAPTION_DATASETS[1:])
        for name in (recipe, *(by_dataset if recipe == "clip/captions" else ())):
            skipped = name not in SOME and not os.environ.get("OVSEG_ALL_TWINS")
            marks = [pytest.mark.skip(reason="one of the others")] if skipped else []
            yield pytest.param(name, id=name, marks=marks)


def tiny_recipe(name: str, twins: Path):
    """The default variant of a recipe, or the one named, tiny and pointed at twins."""
    path, *variant = name.replace("/", ".").split(":")
    config = importlib.import_module(f"configs.{path}").get_config(*variant)
    small = {f"system.clip.{key}": value for key, value in TINY_CLIP.items()}
    if "train" in config:
        small |= {"train.batch_size": 2, "train.steps": 1}
    if "regions" in config.data:
        small |= {"eval.batch_size": 2, "data.train.source.per_class": 1}
    for part, data in config.data.items():
        small[f"data.{part}.source.root"] = str(twins / family(data.source))
    small |= {"pretrained": "", "eval.report_images": 1}
    if len(load_templates(config.vocabulary.templates)) > 2:
        small["vocabulary.templates"] = "single"
    config.update_from_flattened_dict(small)
    config.system.update(TINY_SYSTEMS.get(config.system.name, {}))
    return config


def family(source) -> str:
    """What draws the twin of a source."""
    if "dataset" in source:
        return DATASETS[source.dataset].preparation
    return next(d.preparation for d in DATASETS.values() if d.source["name"] == source.name)


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_trains_and_evaluates_on_a_twin(name, tmp_path):
    config = tiny_recipe(name, tmp_path)
    for drawn in {family(data.source) for data in config.data.values()}:
        prepare(drawn, tmp_path / drawn, None, 2)
    train(config, tmp_path / "run")
    result = evaluate_run(config, tmp_path / "run")
    assert result["images"] == 2
    assert 0 <= result["mIoU"] <= 100
    assert (tmp_path / "run" / "report" / "index.html").is_file()
