import json

import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.report.compare import Run, class_table, compare, differences, figures_table, read_run

PROTOCOL = {
    "classes": ["cat", "dog"],
    "crop": 96,
    "oracle": "",
    "data": {"name": "folder", "split": "val"},
    "system": "zegclip",
    "weights": "12ab",
    "checkpoint": 800,
}


def run(name="a", protocol=PROTOCOL, **figures):
    result = {"mIoU": 40.0, "mIoU_unseen": None, "IoU": {"cat": 30.0, "dog": 50.0}}
    return Run(name, result | {"images": 7, "protocol": protocol} | figures)


def saved(folder, one):
    (folder / one.name).mkdir()
    (folder / one.name / "result.json").write_text(json.dumps(one.result))
    return folder / one.name


def test_best_figures_have_a_star_and_empty_columns_are_left_out():
    runs = [run("a", mIoU=40.0, aAcc=90.0), run("b", mIoU=None, aAcc=95.5), run("c", mIoU=41.25)]
    header, *lines = figures_table(runs[:2]).split("\n")
    assert header.split() == ["run", "mIoU", "aAcc"]
    assert [line.split() for line in lines] == [["a", "40.00*", "90.00"], ["b", "–", "95.50*"]]
    assert figures_table(runs).split("\n")[0].split() == ["run", "mIoU"]  # what all of them have


def test_figures_of_retrieval_are_shown_without_their_counts():
    retrieval = {"R@1": 50.0, "pictures": 4}
    table = figures_table([run("a", retrieval=retrieval), run("b", retrieval=retrieval)])
    assert "retrieval R@1" in table and "pictures" not in table
    assert table.count("50.00*") == 2
    regions = [run(name, regions={"top_1": 60.0, "regions": 9}) for name in "ab"]
    assert "regions top_1" in figures_table(regions) and "9.00" not in figures_table(regions)


def test_classes_with_the_largest_differences_come_first():
    first = run("a", IoU={"cat": 30.0, "dog": 50.0, "emu": None, "fox": 1.0})
    other = run("b", IoU={"cat": 31.0, "dog": 45.0, "emu": 2.0})
    lines = [line.split() for line in class_table([first, other]).split("\n")]
    assert lines == [
        ["class", "a", "b", "difference"],
        ["dog", "50.00", "45.00", "-5.00"],
        ["cat", "30.00", "31.00", "+1.00"],
        ["emu", "–", "2.00", "–"],
    ]
    third = run("c", IoU={"cat": 50.0, "dog": 49.0, "emu": 0.0})
    assert class_table([first, other, third]).split("\n")[1].split()[-1] == "+20.00"


def test_what_is_compared_may_differ():
    other = run("b", PROTOCOL | {"system": "clip", "weights": "f", "checkpoint": 1})
    assert differences(run(), other) == []


def test_a_data_set_may_lie_anywhere():
    here, there = (PROTOCOL | {"data": {"name": "voc", "root": root}} for root in ("a", "b"))
    assert differences(run(protocol=here), run(protocol=there)) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crop": 64}, "crop: 96 against 64"),
        ({"classes": ["dog", "cat"]}, "classes[0]: 'cat' against 'dog'"),
        ({"classes": ["cat"]}, "classes: 2 against 1 entries"),
        ({"data": {"name": "folder", "split": "test"}}, "data.split: 'val' against 'test'"),
        ({"flip": True}, "flip: 'not recorded' against True"),
        ({"oracle": "masks"}, "oracle: '' against 'masks'"),
    ],
)
def test_unlike_protocols_are_described(changed, message):
    assert differences(run(), run("b", PROTOCOL | changed)) == [message]


def test_unlike_protocols_are_refused(tmp_path):
    changed = {"crop": 64, "a": 1, "b": 2, "c": 3}
    paths = [saved(tmp_path, run("a")), saved(tmp_path, run("b", PROTOCOL | changed, images=8))]
    with pytest.raises(UserError, match=r"crop: 96 against 64; .*and 2 more.*--anyway"):
        compare(paths)
    text = compare(paths, anyway=True)
    assert "40.00*" in text and "\n  crop: 96 against 64\n" in text
    assert "images: 7 against 8" in text


def test_unreadable_pictures_are_a_count(tmp_path):
    a, b = saved(tmp_path, run("a")), saved(tmp_path, run("b", unreadable=2))
    with pytest.raises(UserError, match="unreadable: 0 against 2"):
        compare([a, b])
    text = compare([a, b], anyway=True)
    assert f"{b}: 7 pictures, 2 more could not be read" in text
    assert figures_table([read_run(b)] * 2).split("\n")[0].split() == ["run", "mIoU"]


def test_boundaries_and_fields_that_older_results_lack_do_not_differ():
    new = PROTOCOL | {"antialias": False, "boundary": 0.02}
    old = {key: value for key, value in PROTOCOL.items() if key != "oracle"}
    assert differences(run("a", new), run("b", old)) == []
    changed = new | {"antialias": True, "oracle": "masks"}
    assert differences(run("a", old), run("b", changed)) == [
        "oracle: '' against 'masks'",
        "antialias: False against True",
    ]


def test_runs_of_one_protocol(tmp_path):
    a, b = saved(tmp_path, run("a")), saved(tmp_path, run("b", mIoU=42.0, warning="nobody knows"))
    text = compare([a, b / "result.json"], classes=True)
    assert "42.00*" in text and "difference" in text and "protocols" not in text
    assert f"warning of {b}: nobody knows" in text


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UserError, match="at least two"):
        compare([tmp_path])
    with pytest.raises(UserError, match=r"there is no .*evaluate the run first"):
        read_run(tmp_path)
    path = tmp_path / "result.json"
    for content, message in (("{", "is no JSON"), ("{}", "is not the result"), ("[]", "is not")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_run(path)
