import json
from itertools import chain
from pathlib import Path

import pytest

import ovseg_jax.text.label_space as module
from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import (
    LabelSpace,
    add_background,
    from_words,
    label_space_names,
    load_label_space,
    scene_words,
)

# Where a name carries the number of its evaluated classes.
COUNTS = {
    "ade150": 150,
    "ade847": 847,
    "cityscapes19": 19,
    "coco_object81": 81,
    "coco_stuff171": 171,
    "coco_stuff_zegclip": 171,
    "pas20b": 21,
    "pascal_context459": 459,
    "pascal_context59": 59,
    "pascal_context60": 60,
    "shapes": 70,
    "voc20": 20,
    "voc21": 21,
    "voc_zegclip": 20,
}


PACKAGED = Path(module.__file__).parent / "label_spaces"
# The files that the packaged ones were made of, where they lie beside this repository.
BESIDE = Path(__file__).parents[3] / "shared" / "data" / "label_spaces"
# LSeg's list shortens two classes to one word.
NAMED_TWICE = {"ade150_lseg": {"screen"}}


@pytest.mark.parametrize("name", label_space_names())
def test_every_packaged_label_space_loads(name):
    space = load_label_space(name)
    content = json.loads((PACKAGED / f"{name}.json").read_text(encoding="utf-8"))
    assert len(space) == len(content.get("canonical") or content["classes"])
    assert len(space.display_names) == len(space.names) == len(space)
    queries = [word for words in space.classes for word in words]
    recorded = [w for c in content["classes"] for w in ([c] if isinstance(c, str) else c)]
    assert queries == recorded
    assert space.extra["notes"]


@pytest.mark.parametrize("name", label_space_names())
def test_every_packaged_label_space_is_consistent(name):
    space = load_label_space(name)
    numbers = list(range(len(space)))
    shown = space.display_names
    assert {word for word in shown if shown.count(word) > 1} == NAMED_TWICE.get(name, set())
    assert len(set(space.unique_names)) == len(space)
    if space.seen or space.unseen:
        assert sorted(space.seen + space.unseen) == numbers
    if space.folds:
        assert sorted(chain(*space.folds)) == numbers
        assert len(set(map(len, space.folds))) == 1
    assert space.background is None or "background" in shown[space.background]
    split = space.extra.get("zero_shot_split")
    assert not split or sorted(split["seen"] + split["unseen"]) == numbers
    parts = space.extra.get("splits", {})
    assert not parts or sorted(chain(*(range(*part) for part in parts.values()))) == numbers


@pytest.mark.skipif(not BESIDE.is_dir(), reason="the original files are not beside the repository")
@pytest.mark.parametrize("name", label_space_names())
def test_packaged_files_say_what_the_originals_say(name):
    if name in ("shapes", "context_50_10"):
        pytest.skip("made here")
    ours, theirs = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for folder in (PACKAGED, BESIDE)
    )
    prose = {"notes", "source"}
    assert {k: v for k, v in ours.items() if k not in prose} == {
        k: v for k, v in theirs.items() if k not in prose
    }


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_counts(name, count):
    assert len(load_label_space(name)) == count


def test_queries_beyond_the_evaluated_classes_name_the_background():
    space = load_label_space("pas20b")
    assert space.background == 20
    assert len(space.classes[20]) == 39
    assert space.display_names[20] == "background"


def test_subsets():
    space = load_label_space("voc_zegclip")
    assert space.subset("all") == tuple(range(20))
    assert space.subset("unseen") == (15, 16, 17, 18, 19)
    assert space.subset("seen") == tuple(range(15))
    with pytest.raises(UserError, match="has no unseen classes"):
        load_label_space("voc20").subset("unseen")
    with pytest.raises(UserError, match="unknown subset 'novel'"):
        space.subset("novel")


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'voc_zegclip'"):
        load_label_space("voc_zegclp")


def test_own_words():
    space = from_words("cat; grass,  green   lawn ;")
    assert space.classes == (("cat",), ("grass", "green lawn"))
    assert space.names == ("cat", "grass")
    assert space.subset("all") == (0, 1)
    assert from_words(["cat", "dog"]).classes == (("cat",), ("dog",))


@pytest.mark.parametrize("words", ["", " ; ,", []])
def test_no_words_is_an_error(words):
    with pytest.raises(UserError, match="empty"):
        from_words(words)


def test_repeated_words_are_an_error():
    with pytest.raises(UserError, match="'cat' is named twice"):
        from_words("cat; dog, Cat")


def test_own_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"classes": ["cat", ["dog", "hound"]], "unseen": [1], "seen": [0]}))
    space = load_label_space(path)
    assert space.name == "mine"
    assert space.classes == (("cat",), ("dog", "hound"))
    assert space.ignore_label == 255


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "lacks the key 'classes'"),
        ("no json", "is no JSON .line 1: "),
        ('["cat"]', "should hold an object"),
        ('{"classes": "cat"}', "'classes' in .* should be a list of names"),
        ('{"classes": ["cat", 3]}', "'classes' in .* should be a list of names"),
        ('{"classes": ["cat"], "canonical": [3]}', "'canonical' in .* should be a list of names"),
        ('{"classes": ["cat"], "name": 3}', "'name' in .* should be a text"),
        ('{"classes": ["cat"], "seen": ["cat"]}', "'seen' in .* should be a list of positions"),
        ('{"classes": ["cat"], "seen": [true]}', "'seen' in .* should be a list of positions"),
        ('{"classes": ["cat"], "folds": [0]}', "'folds' in .* should be a list of lists"),
        ('{"classes": ["cat"], "ignore_label": "x"}', "'ignore_label' in .* a whole number"),
        ('{"classes": ["cat"], "reduce_zero_label": 1}', "should be true or false"),
        ('{"classes": ["cat", "dog"], "canonical": ["a"]}', "has 1 canonical names"),
        ('{"classes": ["cat", "dog"], "canonical": ["a", "a"]}', "'a' is named twice"),
        ('{"classes": ["cat"], "background": 1}', "has class 1 as background but only 1 classes"),
        ('{"classes": ["cat"], "seen": [0], "unseen": [0]}', "lists class 0 twice"),
        ('{"classes": ["cat", "dog"], "folds": [[0], [0]]}', "folds that do not hold each"),
        ('{"classes": []}', "has no class"),
        ('{"classes": ["cat", "cat"]}', "named twice"),
        ('{"classes": ["cat", " "]}', "without a name"),
        ('{"classes": ["cat"], "seen": [3]}', "lists class 3"),
    ],
)
def test_faulty_files_are_explained(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_label_space(path)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "mine.json"
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot read label space file .* check it"):
        load_label_space(path)
    path.rmdir()
    path.write_bytes(b'{"classes": ["\xff"]}')
    with pytest.raises(UserError, match="is not UTF-8"):
        load_label_space(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no label space file"):
        load_label_space(tmp_path / "mine.json")


def test_background_words_leave_out_the_users_own():
    space = add_background(from_words("cat; Grass, lawn"), scene_words())
    assert space.background == 0 and space.display_names == ("background", "cat", "Grass")
    assert "sky" in space.classes[0] and "grass" not in space.classes[0]
    assert space.classes[1:] == (("cat",), ("Grass", "lawn"))
    before = load_label_space("shapes")
    after = add_background(before, scene_words())
    assert [after.names[i] for i in after.unseen] == [before.names[i] for i in before.unseen]


def test_background_words_take_a_label_space_out_of_its_folds():
    space = LabelSpace("two", (("cat",), ("dog",)), folds=((0,), (1,)))
    assert add_background(space, scene_words()).folds == ()
