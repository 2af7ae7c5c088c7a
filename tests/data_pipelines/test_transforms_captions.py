"""The steps for pictures with captions."""

import numpy as np
import pytest

from data_pipelines.transforms import captions
from data_pipelines.transforms.resize import Window
from ovseg_jax.errors import UserError


def image(height=60, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_crops_have_the_areas_and_ratios_that_were_asked_for():
    step = captions.RandomResizedCrop(area=(0.2, 0.6))
    for seed in range(100):
        window = step.draw(np.random.default_rng(seed), {"image": image(300, 400)})
        assert 0.19 < window.height * window.width / (300 * 400) < 0.61
        assert 0.74 < window.width / window.height < 1.35
        assert window.top + window.height <= 300 and window.left + window.width <= 400


@pytest.mark.parametrize(
    ("shape", "window"),
    [((10, 100), Window(0, 43, 10, 13)), ((100, 10), Window(43, 0, 13, 10))],
)
def test_where_no_crop_fits_the_middle_is_taken(shape, window):
    step = captions.RandomResizedCrop(area=(1.0, 1.0))
    assert step.draw(np.random.default_rng(0), {"image": image(*shape)}) == window


def test_antialiasing_is_a_matter_of_the_reference():
    window = Window(0, 0, 60, 80)
    results = [
        captions.RandomResizedCrop((12, 16), antialias=antialias).apply({"image": image()}, window)
        for antialias in (True, False)
    ]
    assert results[0]["image"].std() < 0.7 * results[1]["image"].std()


def test_the_center_has_its_size():
    for side in (64, 65, 97):
        step = captions.CenterCrop(size=56, short_side=64, bicubic=False)
        assert step.apply({"image": image(side, 90)}, None)["image"].shape == (56, 56, 3)


def test_erasing_replaces_one_part_by_noise():
    given = {"image": np.full((64, 64, 3), 9.0, np.float32)}
    erased = captions.RandomErasing(1.0)(given, np.random.default_rng(1))["image"]
    share = (erased != 9).all(2).mean()
    assert 0.015 < share < 0.35
    assert abs(erased[erased != 9].std() - 1) < 0.1
    assert (given["image"] == 9).all()


def test_erasing_wants_a_normalised_image():
    with pytest.raises(UserError, match="put 'normalize' before it"):
        captions.RandomErasing()({"image": image()}, np.random.default_rng(0))


def test_one_of_several_captions_is_chosen():
    step = captions.ChooseCaption()
    example = {"captions": ("one", "two", "three"), "caption": "one"}
    rng = np.random.default_rng(0)
    chosen = [step(example, rng)["caption"] for _ in range(60)]
    assert set(chosen) == {"one", "two", "three"} and example["caption"] == "one"
    assert min(map(chosen.count, example["captions"])) > 10
    with pytest.raises(UserError, match="'choose_caption' finds no 'captions'"):
        step({"caption": "one"}, rng)
