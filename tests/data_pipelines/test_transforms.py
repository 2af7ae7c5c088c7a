"""The transforms equal the recorded chain of ZegCLIP, draw for draw and pixel for pixel."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import transforms
from ovseg_jax.errors import UserError
from ovseg_jax.parity.zegclip_data import RecordedDraws, compare_augment

GOLDEN = Path(__file__).parents[1] / "golden" / "zegclip" / "augment.npz"
SPECS = {
    "reduce_zero_label": {},
    "resize_ratio": {"box": (96, 48)},
    "resize_short_side": {"short_side": 24},
    "random_crop": {"size": (32, 24)},
    "flip": {"probability": 1.0},
    "photometric": {},
    "normalize": {"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)},
    "pad": {"size": (64, 64)},
    "tokenize": {"max_entities": 2, "entity_tokens": 2},
    "select": {"keys": ("image", "label", "caption")},
}


def tokenizer(texts):
    return np.array([[len(text), 0] for text in texts])


def example(height=40, width=50):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "label": rng.integers(0, 4, (height, width), dtype=np.uint8),
        "caption": "a cat",
        "entities": "cat",
    }


def test_equal_recorded():
    with np.load(GOLDEN) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
        meta = json.loads(str(file["meta"]))
    compared = compare_augment(arrays, meta)
    assert set(compared) == {key for key in arrays if "out" in key.split("/")}
    for key, quantity in compared.items():
        assert quantity.actual.dtype.kind == arrays[key].dtype.kind, key
        # Tighter than the parity command: OpenCV's code paths are pinned in `hsv_to_rgb`.
        tolerance = 1e-6 if "normalize" in key else 0
        np.testing.assert_allclose(quantity.actual, arrays[key], rtol=0, atol=tolerance)


def test_replay_notices_another_draw():
    with pytest.raises(ValueError, match="rand"):
        transforms.Flip()(example(), RecordedDraws([["uniform", [0, 1], 0.3]]))


@pytest.mark.parametrize("name", transforms.STEPS)
def test_every_step_is_pure_and_repeatable(name):
    (step,) = transforms.create_transforms([{"name": name} | SPECS[name]], tokenizer)
    given = example()
    for value in (given["image"], given["label"]):
        value.flags.writeable = False
    first = step(given, np.random.default_rng(3))
    again = step(given, np.random.default_rng(3))
    drawn = step.draw(np.random.default_rng(3), given)
    assert set(given) == {"image", "label", "caption", "entities"}
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        np.testing.assert_array_equal(value, step.apply(given, drawn)[key])


def test_steps_do_without_labels():
    unlabelled = [name for name in SPECS if name not in ("reduce_zero_label", "select")]
    specs = [{"name": name} | SPECS[name] for name in unlabelled]
    chain = transforms.create_transforms(specs, tokenizer)
    current = {"image": example()["image"], "caption": "a cat", "entities": ""}
    for step in chain:
        current = step(current, np.random.default_rng(0))
    assert set(current) == {"image", "caption", "entities", "text", "entity_text"}
    np.testing.assert_array_equal(current["text"], [5, 0])
    assert current["text"].dtype == np.int32


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_labels_of_16_bits_pass_the_chain(dtype):
    given = example() | {"label": np.full((40, 50), 200, dtype)}
    specs = [
        {"name": name} | SPECS[name] for name in ("resize_ratio", "random_crop", "flip", "pad")
    ]
    for step in transforms.create_transforms(specs):
        given = step(given, np.random.default_rng(0))
    assert given["label"].dtype == dtype and given["label"].shape == (64, 64)
    assert set(np.unique(given["label"])) == {200, 255}


def test_crop_avoids_a_single_class():
    label = np.zeros((8, 64), np.uint8)
    label[:, 60:] = 1
    given = {"image": np.zeros((8, 64, 3), np.uint8), "label": label}
    crop = transforms.RandomCrop((8, 8))
    found = sum(crop(given, np.random.default_rng(s))["label"].any() for s in range(100))
    free = transforms.RandomCrop((8, 8), cat_max_ratio=1)
    unchecked = sum(free(given, np.random.default_rng(s))["label"].any() for s in range(100))
    assert found > 2 * unchecked


def test_short_side_is_exact_at_every_size():
    for long in range(64, 400, 7):
        assert transforms.short_side_size((64, long), 48)[0] == 48
        assert transforms.short_side_size((long, 64), 48)[1] == 48


def test_select_keeps_what_is_asked_for_and_the_size():
    (step,) = transforms.create_transforms([{"name": "select", "keys": ("image", "label")}])
    given = example() | {"size": np.array([40, 50]), "boxes": np.zeros((3, 4))}
    assert set(step(given, np.random.default_rng(0))) == {"image", "label", "size"}
    with pytest.raises(UserError, match=r"'select' finds no 'label'.*image"):
        step({"image": given["image"]}, np.random.default_rng(0))


@pytest.mark.parametrize("width", [1, 63, 64, 65, 130])
def test_hsv_conversion_covers_every_width(width):
    hsv = np.random.default_rng(0).integers(0, 180, (5, width, 3), dtype=np.uint8)
    rgb = transforms.hsv_to_rgb(hsv)
    h, s, v = (hsv[..., channel].astype(np.float64) for channel in range(3))
    chroma = v * s / 255
    sector = (np.array([5.0, 3.0, 1.0]) + h[..., None] / 30) % 6
    ramp = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    assert np.abs(rgb - (v[..., None] - chroma[..., None] * ramp)).max() < 1.001


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "flipp"}, "did you mean 'flip'"),
        ({}, "unknown transform None"),
        ({"name": "pad", "sise": (8, 8)}, "did you mean 'size'"),
        ({"name": "normalize", "mean": (0, 0, 0)}, "lacks std"),
        ({"name": "tokenize"}, "needs a tokenizer"),
    ],
)
def test_mistakes_in_a_config(spec, message):
    with pytest.raises(UserError, match=message):
        transforms.create_transforms([spec])


def test_entities_become_rows_of_ids():
    def words(texts):
        return np.array([[1, *map(len, text.split()), 99, 0, 0, 0][:6] for text in texts])

    spec = {"name": "tokenize", "max_entities": 2, "entity_tokens": 4}
    (step,) = transforms.create_transforms([spec], words)
    rng = np.random.default_rng(0)
    two = step(example() | {"entities": "red star;grass;sand"}, rng)
    np.testing.assert_array_equal(two["entity_text"], [[1, 3, 4, 99], [1, 5, 99, 0]])
    assert two["text"].tolist() == [1, 1, 3, 99, 0, 0]
    assert not step(example() | {"entities": ""}, rng)["entity_text"].any()
    with pytest.raises(UserError, match="'a big red star' has more than 4 tokens"):
        step(example() | {"entities": "a big red star"}, rng)
    with pytest.raises(UserError, match="finds no entities"):
        step({"caption": "a cat"}, rng)
