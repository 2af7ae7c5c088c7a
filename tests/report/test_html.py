import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ovseg_jax import files
from ovseg_jax.errors import UserError
from ovseg_jax.report.gallery import Example, Proposal
from ovseg_jax.report.html import write_report

NAMES = ("sky", "grass & co", "<b>lawn")
RESULT = {
    "images": 7,
    "mIoU": 40.0,
    "mIoU_unseen": float("nan"),
    "aAcc": 90.0,
    "IoU": {"sky": 20.0, "grass & co": 60.0, "<b>lawn": float("nan")},
    "confusions": [
        {"true": "sky", "predicted": "<b>lawn", "pixels": 12345, "share": 43.21},
        {"true": "grass & co", "predicted": "sky", "pixels": 6, "share": 0.5},
    ],
    "protocol": {"crop": 96, "queries": ["sky", "grass & co", "<b>lawn"]},
}


def example(size=(12, 16)):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, size)
    truth[0] = 255
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    return Example(image, truth, np.where(truth == 255, 0, truth), 98.7)


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_says_what_could_not_be_read(tmp_path):
    page = write_report(tmp_path, RESULT | {"unreadable": 2}, {}, NAMES)
    assert "2 more pictures could not be read. Figures in percent" in page.read_text()
    assert "could not" not in write_report(tmp_path, RESULT, {}, NAMES).read_text()


def test_the_page_is_whole_and_needs_nothing_from_outside(tmp_path):
    page = write_report(
        tmp_path / "report", RESULT, {"Pictures": [example()]}, NAMES, unseen=[2], title="A & B"
    )
    text = page.read_text()
    parser = Balance()
    parser.feed(text)
    assert not parser.open and "http" not in text
    assert len(parser.sources) == 3
    for source in parser.sources:
        assert Image.open(page.parent / source).size == (16, 12)
    assert "&lt;b&gt;lawn" in text and "<b>lawn" not in text
    assert text.count('class="badge">unseen') == 1
    assert re.search(r"grass &amp; co.*sky", text, re.S)  # sorted by IoU
    assert "Neither labelled nor predicted: &lt;b&gt;lawn" in text
    assert "100 % of the labelled pixels right, mIoU 98.7" in text


def test_proposals_stand_below_their_picture(tmp_path):
    mask = np.zeros((12, 16), bool)
    mask[3:9, 2:10] = True
    proposals = (Proposal(mask, 2, 0.876), Proposal(~mask, 0, 0.5))
    examples = {"Pictures": [example()._replace(proposals=proposals), example()]}
    page = write_report(tmp_path, RESULT, examples, NAMES, unseen=[2])
    parser, text = Balance(), page.read_text()
    parser.feed(text)
    assert not parser.open
    shown = [source for source in parser.sources if "proposal" in source]
    assert shown == ["pictures/000_proposal_0.png", "pictures/000_proposal_1.png"]
    assert re.search(
        r'&lt;b&gt;lawn 0\.88 <span class="badge">unseen<.*sky 0\.50<', page.read_text()
    )
    first = np.asarray(Image.open(tmp_path / shown[0]))
    colourful = np.ptp(first.astype(int), axis=-1) > 20  # beyond the mask everything is grey
    assert not (colourful & ~mask).any() and colourful[4:8, 3:9].all()


def test_confusions_and_sections(tmp_path):
    examples = {"Pictures": [example()], "Best pictures": [example()], "Worst pictures": []}
    page = write_report(tmp_path, RESULT, examples, NAMES)
    text = page.read_text()
    assert "<td>sky</td><td>&lt;b&gt;lawn</td>" in text and "43.2 %" in text and "12,345" in text
    assert text.index("<h2>Pictures") < text.index("<h2>Best pictures")
    assert "Worst pictures" not in text
    assert len(list((tmp_path / "pictures").iterdir())) == 6


def test_classes_are_sorted_without_a_script(tmp_path):
    text = write_report(tmp_path, RESULT, {}, NAMES).read_text()
    assert "<script" not in text
    bars = re.findall(r'class="bar" style="--name:(\d);--place:(\d)"><span title="(\w+)', text)
    assert bars == [("0", "1", "grass"), ("1", "0", "sky")]


def test_a_report_without_pictures(tmp_path):
    text = write_report(tmp_path, RESULT, {}, NAMES).read_text()
    assert "<h2>Pictures" not in text
    assert "<b>40.0</b>" in text and "mIoU unseen" not in text  # what has no value is left out


def test_figures_besides_those_of_pixels(tmp_path):
    result = RESULT | {"retrieval": {"R@1": 7.25, "pictures": 4}}
    result |= {"regions": {"top_1": 61.25, "top_1_unseen": float("nan"), "regions": 9}}
    text = write_report(tmp_path, result, {}, NAMES).read_text()
    assert "R@1<b>7.2</b><small>captions that find their picture, 4 pictures<" in text
    assert "top_1<b>61.2</b><small>whose class is among the best names, 9 regions<" in text


def test_boundaries_and_sets_of_classes(tmp_path):
    edges = {"sky": 12.34, "grass & co": None, "<b>lawn": None}
    figures = {f"mAcc{suffix}": 51.5 for suffix in ("", "_seen", "_unseen")} | {"fwIoU": 61.25}
    protocol = {"metrics": "detectron2_legacy", "oracle": "masks"}
    result = RESULT | figures | {"boundary_IoU": edges, "protocol": protocol}
    text = write_report(tmp_path, result, {}, NAMES).read_text()
    bars = re.findall(r'<span title="(\w+).*?class="number edge">(.*?)</span>', text)
    assert bars == [("grass", "–"), ("sky", "12.3")]
    assert "<tr><td>mACC</td>" + 3 * '<td class="number">51.5</td>' in text
    assert "fwIoU<b>61.2</b>" in text and "pACC<b>90.0</b>" in text
    assert "by the rules of detectron2_legacy, with the oracle" in text
    plain = write_report(tmp_path, RESULT, {}, NAMES).read_text()
    assert "edge" not in plain.partition("</style>")[2] and "oracle" not in plain


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    page = write_report(tmp_path, RESULT, {}, NAMES, title="old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        write_report(tmp_path, RESULT, {"Pictures": [example()]}, NAMES, title="new")
    assert "old" in page.read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != page]
