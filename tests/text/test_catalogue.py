import json

import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.text import catalogue
from ovseg_jax.text.label_space import label_space_names, load_label_space


def test_the_listing_has_a_line_for_each_label_space():
    header, *lines = catalogue.listing().split("\n")
    assert header.split()[:4] == ["name", "classes", "queries", "split"]
    assert tuple(line.split()[0] for line in lines) == label_space_names()
    entries = json.loads(catalogue.listing_json())
    assert [entry["name"] for entry in entries] == list(label_space_names())
    assert all(entry["description"] and "\n" not in entry["description"] for entry in entries)
    voc = next(entry for entry in entries if entry["name"] == "pas20b")
    assert (voc["classes"], voc["queries"], voc["background"]) == (21, 59, "background")


def test_a_page_shows_classes_synonyms_and_split():
    lines = [line.split() for line in catalogue.page("voc_zegclip").split("\n")]
    assert ["14", "person", "seen"] in lines and ["15", "pottedplant", "unseen"] in lines
    assert "   10  diningtable  table\n" in catalogue.page("voc20")
    assert "television monitor | tv monitor" in catalogue.page("voc20")
    assert ["19", "tvmonitor", "3"] in [
        line.split() for line in catalogue.page("pascal5i").split("\n")
    ]


@pytest.mark.parametrize("name", ["voc_zegclip", "pas20b", "pascal5i", "coco20i", "fss1000"])
def test_the_json_of_a_label_space_is_a_file_of_ones_own(name, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(catalogue.page_json(name), encoding="utf-8")
    space = load_label_space(path)
    assert space == load_label_space(name) and space.extra == load_label_space(name).extra
    assert catalogue.page(str(path)).split("\n")[1:] == catalogue.page(name).split("\n")[1:]


def test_unknown_names_are_answered_with_the_nearest():
    for show in (catalogue.page, catalogue.page_json):
        with pytest.raises(UserError, match="did you mean 'ade150'"):
            show("ade15")
