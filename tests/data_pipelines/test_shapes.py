"""The embedded world: pure functions of (split, seed, index) whose parts agree with each other."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import ovseg_jax.text.label_space as label_spaces
from data_pipelines.sources import shapes_captions as captions
from data_pipelines.sources.shapes import (
    CLASSES,
    NUM_THINGS,
    SEEN,
    SPLITS,
    TYPICAL_COLOURS,
    UNSEEN,
    ShapesSource,
    label_space,
)
from data_pipelines.sources.shapes_textures import PATTERNS, SHAPES, STUFFS
from ovseg_jax.errors import UserError


def _equal(first: dict, second: dict) -> bool:
    assert first.keys() == second.keys()
    return all(np.array_equal(first[key], second[key]) for key in first)


def test_a_scene_is_a_function_of_its_index():
    forward = ShapesSource(seed=3, size=8)
    other = ShapesSource(seed=3, size=100)
    later = [other[i] for i in reversed(range(8))]
    assert all(_equal(forward[i], later[7 - i]) for i in range(8))


def test_entities_are_what_the_caption_names():
    source = ShapesSource(size=300)
    listed = 0
    for example in (source[i] for i in range(len(source))):
        present = [CLASSES[c] for c in example["classes"] if c >= 0]
        entities = [name for name in example["entities"].split(";") if name]
        assert len(set(entities)) == len(entities)
        assert all(name in present or name in STUFFS for name in entities)
        assert all(word in example["caption"].split() for name in entities for word in name.split())
        listed += len(entities)
    assert listed > 500


def test_shapes_have_typical_colours_of_their_own():
    pairs = [frozenset(pair) for typical in TYPICAL_COLOURS.values() for pair in typical]
    assert len(set(pairs)) == len(pairs) == 2 * len(SHAPES)
    source = ShapesSource(size=300, objects="single")
    named = [
        (CLASSES[scene["class_id"]].split()[1], word)
        for scene in source
        for word in scene["caption"].split()
        if word in captions.PALETTE
    ]
    typical = [word in {first for first, _ in TYPICAL_COLOURS[shape]} for shape, word in named]
    assert 0.7 < np.mean(typical) < 0.95


def test_every_fourth_mixed_picture_is_a_single_object():
    source = ShapesSource(size=40, objects="mixed")
    counts = [int((source[i]["classes"] >= 0).sum()) for i in range(40)]
    assert set(counts[::4]) == {1} and max(counts) > 1
    assert all(source[i]["boxes"].shape == (3, 4) for i in (0, 1))


def test_the_world_has_not_changed():
    """Shipped weights know this world; whoever changes it on purpose trains them anew."""
    source = ShapesSource(seed=0, size=4)
    digest = hashlib.sha256()
    for example in (source[i] for i in range(4)):
        digest.update(example["label"].tobytes() + example["instance"].tobytes())
        digest.update(example["caption"].encode())
    assert digest.hexdigest()[:16] == "a7c2e0640f5defd6"
    # Brightness only: the last bit of a sine may differ between processors.
    means = [source[i]["image"].mean() for i in range(4)]
    np.testing.assert_allclose(means, [191.67, 118.03, 119.55, 126.82], atol=0.05)


def test_splits_seeds_and_indices_do_not_share_scenes():
    images = [
        ShapesSource(seed=seed, size=3, canvas=32, split=split, objects=objects)[i]["image"]
        for seed in (0, 1)
        for split in SPLITS
        for objects in ("scene", "single")
        for i in range(3)
    ]
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("canvas", [64, 96, 160])
def test_label_instance_boxes_and_classes_agree(canvas):
    source = ShapesSource(seed=1, size=40, canvas=canvas)
    for example in (source[i] for i in range(len(source))):
        label, instance, classes = example["label"], example["instance"], example["classes"]
        assert example["image"].shape == (canvas, canvas, 3)
        assert example["image"].dtype == label.dtype == instance.dtype == np.uint8
        assert example["boxes"].shape == (source.max_objects, 4)
        assert label.max() < len(CLASSES)
        assert np.all(label[instance == 0] >= NUM_THINGS)
        for k, class_id in enumerate(classes):
            mask = instance == k + 1
            if class_id < 0:
                assert not mask.any() and not example["boxes"][k].any()
                assert example["visible"][k] == 0
                continue
            rows, columns = np.nonzero(mask)
            box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_array_equal(example["boxes"][k], box)
            assert np.all(label[mask] == class_id)
            assert 0.3 < example["visible"][k] <= 1


def test_larger_canvases_hold_more_objects():
    small, large = ShapesSource(size=20), ShapesSource(size=20, canvas=192)
    count = [np.mean([(s[i]["classes"] >= 0).sum() for i in range(20)]) for s in (small, large)]
    assert small.max_objects == 3
    assert large.max_objects == 12
    assert count[1] > 2.5 * count[0]


def test_single_objects_fill_the_canvas():
    source = ShapesSource(seed=0, size=60, canvas=48, objects="single")
    for example in (source[i] for i in range(len(source))):
        assert example["class_id"] == example["classes"][0]
        assert example["class_id"].dtype == np.int32
        assert (example["instance"] == 1).mean() > 0.05
        assert len(np.unique(example["label"])) == 2


def _things_in(caption: str) -> list[tuple[str | None, str]]:
    """(pattern or None, shape) of each thing a caption names, synonyms resolved."""
    meanings = {word: name for name, word in captions.SYNONYMS.items()}
    words = " ".join(meanings.get(word, word) for word in caption.split()).split()
    return [
        (words[i - 1] if i and words[i - 1] in PATTERNS else None, word)
        for i, word in enumerate(words)
        if word in SHAPES
    ]


def test_captions_say_only_what_can_be_seen():
    source = ShapesSource(seed=2, size=400)
    mentioned, present = 0, 0
    for example in (source[i] for i in range(len(source))):
        names = [CLASSES[c].split() for c in example["classes"] if c >= 0]
        things = _things_in(example["caption"])
        for pattern, shape in things:
            assert any(shape == s and pattern in (None, p) for p, s in names), example["caption"]
        named = {word for word in example["caption"].split() if word in STUFFS}
        assert named <= set(example["entities"].split(";"))
        mentioned += len(things)
        present += len(names)
    assert 0.8 < mentioned / present < 0.9


def test_directions_in_captions_are_true():
    source = ShapesSource(seed=5, size=600)
    checked = 0
    for example in (source[i] for i in range(len(source))):
        words = example["caption"].split()
        things = _things_in(example["caption"])
        if len(things) != 2 or (example["classes"] >= 0).sum() != 2:
            continue
        centres = [
            (example["boxes"][k][:2] + example["boxes"][k][2:]) / 2
            for shape in (things[0][1], things[1][1])
            for k in range(2)
            if CLASSES[example["classes"][k]].split()[1] == shape
        ]
        if len(centres) != 2:  # two things of one shape
            continue
        right, down = centres[1] - centres[0]
        signs = {"left": right, "right": -right, "above": down, "below": -down}
        for word in set(words) & signs.keys():
            assert signs[word] > 0, example["caption"]
            checked += 1
    assert checked > 20


def test_classes_are_uniform():
    source = ShapesSource(seed=4, size=1280, canvas=32, objects="single")
    counts = Counter(int(source[i]["class_id"]) for i in range(len(source)))
    assert len(counts) == NUM_THINGS
    # 20 expected of each, with a deviation of 4.5.
    assert min(counts.values()) >= 3 and max(counts.values()) <= 42


def test_every_word_of_a_caption_is_known():
    tokenizer = captions.build_shapes_tokenizer()
    source = ShapesSource(seed=6, size=300)
    texts = [source[i]["caption"] for i in range(300)]
    tokens = tokenizer(texts)
    assert tokens.shape == (300, 28)
    assert not np.any(tokens == 1)
    assert not tokenizer.unknown_words(" ".join(CLASSES))


def test_unseen_classes_are_a_fifth_and_their_parts_are_seen():
    assert sorted(SEEN + UNSEEN) == list(range(len(CLASSES)))
    unseen = [CLASSES[i] for i in UNSEEN]
    assert unseen[-1] == "gravel"
    pairs = [name.split() for name in unseen[:-1]]
    assert abs(len(pairs) - NUM_THINGS / 5) < 1
    seen_pairs = [CLASSES[i].split() for i in SEEN if i < NUM_THINGS]
    for position, parts in ((0, PATTERNS), (1, SHAPES)):
        held_out = Counter(pair[position] for pair in pairs)
        trained = Counter(pair[position] for pair in seen_pairs)
        assert set(held_out) == set(parts)
        assert min(trained[part] for part in parts) >= 4


def test_the_packaged_label_space_is_the_one_of_the_world():
    path = Path(label_spaces.__file__).parent / "label_spaces" / "shapes.json"
    assert json.loads(path.read_text()) == label_space()


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="split 'train'"):
        ShapesSource(split="train")
    with pytest.raises(UserError, match="'many'"):
        ShapesSource(objects="many")
    with pytest.raises(UserError, match="canvas 16"):
        ShapesSource(canvas=16)
    with pytest.raises(UserError, match="size 0"):
        ShapesSource(size=0)
    with pytest.raises(IndexError):
        ShapesSource(size=2)[2]
