"""What all transforms have in common, and their making from a config."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from data_pipelines import transforms
from ovseg_jax.errors import UserError

SPECS = {
    "reduce_zero_label": {},
    "flip": {"probability": 1.0},
    "normalize": {"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)},
    "pad": {"size": (64, 64)},
    "tokenize": {"max_entities": 2, "entity_tokens": 2},
    "select": {"keys": ("image", "label", "caption")},
    "choose": {"branches": ([{"name": "gaussian_noise"}], ()), "probabilities": (0.5, 0.5)},
    "resize_ratio": {"box": (96, 48)},
    "resize_short_side": {"short_side": 24},
    "random_crop": {"size": (32, 24)},
    "photometric": {},
    "resize_shortest_edge": {"short_edges": (24, 60)},
    "resize_crop": {"short_edges": (24, 60), "size": (32, 24), "single_category_max_area": 0.3},
    "large_scale_jitter": {"size": (32, 24)},
    "color_ssd": {},
    "present_classes": {"max_classes": 5},
    "resize": {"size": (30, 20)},
    "color_jitter": {},
    "gaussian_noise": {},
    "random_affine": {"shift": 5.0},
    "shift_scale_rotate": {},
    "random_resized_crop": {"size": (30, 20)},
    "choose_caption": {},
    "center_crop": {"size": 20, "short_side": 24},
    "random_erasing": {"probability": 1.0},
    "rand_augment": {"operations": 4},
    "crop_to_class": {},
    "cut_center": {"size": (32, 64)},
}
NEED_LABEL = {"reduce_zero_label", "select", "present_classes", "crop_to_class"}
REFUSE_LABEL = {"center_crop", "rand_augment"}
WARPS = {"random_affine", "shift_scale_rotate"}


def tokenizer(texts):
    return np.array([[len(text), 0] for text in texts])


def example(dtype=np.uint8):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (40, 50, 3), dtype=np.uint8),
        "label": rng.integers(0, 4, (40, 50)).astype(dtype),
        "caption": "a cat",
        "captions": ("a cat", "a grey cat", "a pet"),
        "entities": "cat",
    }


def make(name):
    (step,) = transforms.create_transforms([{"name": name} | SPECS[name]], tokenizer)
    return step


def given_to(name, dtype=np.uint8):
    """What a step can be given; nobody may write into it."""
    given = example(dtype)
    if name in REFUSE_LABEL:
        del given["label"]
    if name == "random_erasing":
        given["image"] = given["image"].astype(np.float32)
    for key in {"image", "label"} & set(given):
        given[key].flags.writeable = False
    return given


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", transforms.STEPS)
def test_every_step_is_pure_and_repeatable(name, seed):
    step, given = make(name), given_to(name)
    keys = set(given)
    first = step(given, np.random.default_rng(seed))
    again = step(given, np.random.default_rng(seed))
    drawn = step.draw(np.random.default_rng(seed), given)
    assert set(given) == keys
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        np.testing.assert_array_equal(value, step.apply(given, drawn)[key])


@pytest.mark.parametrize("name", sorted(set(SPECS) - NEED_LABEL))
def test_steps_do_without_labels(name):
    given = given_to(name)
    given.pop("label", None)
    assert "label" not in make(name)(given, np.random.default_rng(0))


@pytest.mark.parametrize("name", sorted(set(SPECS) - REFUSE_LABEL))
def test_labels_of_32_bits_fare_as_those_of_8(name):
    narrow = make(name)(given_to(name), np.random.default_rng(0))["label"]
    wide = make(name)(given_to(name, np.int32), np.random.default_rng(0))["label"]
    assert narrow.dtype == np.uint8 and wide.dtype == np.int32
    # OpenCV warps the two by different code, which rounds positions halfway differently.
    agreement = (narrow == wide).mean()
    assert agreement > 0.98 if name in WARPS else agreement == 1


@pytest.mark.parametrize("name", sorted(REFUSE_LABEL))
def test_steps_that_move_the_image_only_refuse_labels(name):
    with pytest.raises(UserError, match=f"'{name}' would move the image"):
        make(name)(example(), np.random.default_rng(0))


@pytest.mark.parametrize("name", sorted(set(SPECS) - REFUSE_LABEL - {"resize_short_side"}))
def test_image_and_label_keep_one_size(name):
    after = make(name)(given_to(name), np.random.default_rng(0))
    assert after["image"].shape[:2] == after["label"].shape


@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        (common.mmseg_transforms(32, (96, 32)), (32, 32, 3)),
        (common.maskformer_transforms(32), (32, 32, 3)),
        (common.lsj_transforms(32), (32, 32, 3)),
        (common.fusioner_transforms(0.5, 20, size=24), (24, 24, 3)),
        (common.deit_transforms(24), (24, 24, 3)),
    ],
    ids=["mmseg", "maskformer", "lsj", "fusioner", "deit"],
)
def test_recipes_give_one_shape(recipe, shape):
    config = ConfigDict({"transforms": recipe})
    for seed in range(8):
        current = example()
        if any(spec["name"] in REFUSE_LABEL for spec in recipe):
            del current["label"]
        rng = np.random.default_rng(seed)
        for step in transforms.create_transforms(config.transforms):
            current = step(current, rng)
        assert current["image"].shape == shape


def test_choose_runs_one_branch():
    specs = [
        {
            "name": "choose",
            "branches": ([{"name": "flip", "probability": 1.0}, {"name": "pad"}], ()),
            "probabilities": (0.25, 0.75),
        }
    ]
    (step,) = transforms.create_transforms(specs)
    shapes = [step(example(), np.random.default_rng(s))["image"].shape[0] for s in range(400)]
    assert set(shapes) == {40, 512}
    assert 70 < shapes.count(512) < 130


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "flipp"}, "did you mean 'flip'"),
        ({}, "unknown transform None"),
        ({"name": "pad", "sise": (8, 8)}, "did you mean 'size'"),
        ({"name": "normalize", "mean": (0, 0, 0)}, "lacks std"),
        ({"name": "tokenize"}, "needs a tokenizer"),
        ({"name": "choose", "branches": ((),), "probabilities": (0.5, 0.5)}, "has 1 branches"),
        ({"name": "choose", "branches": ((), ()), "probabilities": (0.5, 0.4)}, "with the sum 1"),
        ({"name": "choose", "branches": ([{"name": "flipp"}],)}, "did you mean 'flip'"),
        ({"name": "resize", "method": "linear"}, "unknown method 'linear'.*area"),
        ({"name": "resize_shortest_edge", "label_rule": "none"}, "unknown label_rule 'none'"),
    ],
)
def test_mistakes_in_a_config(spec, message):
    with pytest.raises(UserError, match=message):
        transforms.create_transforms([spec])


def test_select_keeps_what_is_asked_for_and_the_size():
    (step,) = transforms.create_transforms([{"name": "select", "keys": ("image", "label")}])
    given = example() | {"size": np.array([40, 50]), "boxes": np.zeros((3, 4))}
    assert set(step(given, np.random.default_rng(0))) == {"image", "label", "size"}
    with pytest.raises(UserError, match=r"'select' finds no 'label'.*image"):
        step({"image": given["image"]}, np.random.default_rng(0))


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
