"""Both stages of zsseg on the embedded world, two steps each at tiny sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from configs.shapes import zsseg, zsseg_prompt
from ovseg_jax.evaluate import evaluate_run
from ovseg_jax.models import load_folder_weights
from ovseg_jax.train import train

pytestmark = pytest.mark.usefixtures("compiling_fast")

SHARED = {
    key: value for key, value in tiny.OVERRIDES.items() if key.startswith(("system.clip.", "eval."))
} | {
    "vocabulary.tokenizer": "shapes",
    "data.eval.source.canvas": 64,
    "data.eval.source.size": 4,
    "data.train.source.canvas": 64,
    "train.batch_size": 2,
    "train.steps": 2,
    "eval.crop": 64,
}
SEGMENTER = {
    f"system.maskformer.{part}.{key}": value
    for part, sizes in tiny.MASKFORMER.items()
    for key, value in sizes.items()
} | {"system.region_size": 32, "optimizer.name": "adamw"}


def shortened(config, **overrides):
    config.update_from_flattened_dict(SHARED | overrides)
    return config


def run(config, workdir: Path) -> dict:
    train(config, workdir)
    return evaluate_run(config, workdir)


def test_the_second_stage_goes_on_from_the_first(tmp_path):
    first, second = tmp_path / "prompt", tmp_path / "segmenter"
    config = shortened(zsseg_prompt.get_config(), pretrained="", **{"data.regions.source.size": 6})
    regions = run(config, first)["regions"]
    assert regions["regions"] == 6 and 0 <= regions["top_1"] <= regions["top_5"] <= 100

    result = run(shortened(zsseg.get_config(), pretrained=str(first), **SEGMENTER), second)
    assert result["images"] == 4 and 0 <= result["mIoU_unseen"] <= 100
    assert 0 <= result["training_free"]["mIoU_unseen"] <= 100
    begun, learned = load_folder_weights(first), load_folder_weights(second)
    assert begun.keys() < learned.keys()
    for path, value in begun.items():  # CLIP and the prompt stay as they were
        np.testing.assert_array_equal(learned[path], value, err_msg=path)
    page = (second / "report" / "index.html").read_text()
    assert page.count('class="proposals"') == tiny.OVERRIDES["eval.report_images"]
    assert (second / "report" / "pictures" / "000_proposal_0.png").is_file()
    assert json.loads((second / "result.json").read_text())["protocol"]["templates"] == ["{}"]


def test_a_fixed_template_needs_no_first_stage():
    config = zsseg.get_config("fixed")
    assert (config.pretrained, config.system.prefix) == ("shapes_clip", 0)
    assert config.vocabulary.templates == "shapes"
    with pytest.raises(ValueError, match="prompts own is none of learned, fixed"):
        zsseg.get_config("own")


def test_learned_prompts_end_with_a_full_stop():
    tokenizer = json.loads(
        (
            Path(zsseg.__file__).parents[2] / "ovseg_jax/assets/shapes_clip/tokenizer.json"
        ).read_text()
    )
    assert tokenizer["model"]["vocab"]["."] == zsseg_prompt.FULL_STOP
