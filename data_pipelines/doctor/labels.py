"""What the doctor notes of pictures with labels."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.datasets import LabelledDataset
from data_pipelines.doctor.report import (
    SplitReport,
    common_findings,
    evenly,
    read_examples,
    some,
)
from data_pipelines.sources.class_masks import ClassMasks
from ovseg_jax.report.overlay import overlay
from ovseg_jax.text.label_space import LabelSpace, load_label_space


@dataclasses.dataclass(kw_only=True)
class LabelReport(SplitReport):
    """What was found in one split.

    Attributes:
      classes: names of the C classes.
      pixels: int64 [C], labelled pixels of each class.
      pictures: int64 [C], pictures that have it.
      ignored: share of pixels that do not count.
    """

    classes: tuple[str, ...]
    pixels: np.ndarray
    pictures: np.ndarray
    ignored: float

    def details(self) -> str:
        """The end of the summary."""
        return (
            f"{np.count_nonzero(self.pixels)} of {len(self.pixels)} classes, "
            f"{100 * self.ignored:.1f} % of the pixels ignored"
        )

    def histogram(self) -> str:
        """A line for each class that occurs, most pixels first."""
        order = np.argsort(-self.pixels, kind="stable")
        share = 100 * self.pixels / max(self.pixels.sum(), 1)
        width = max(map(len, self.classes))
        return "\n".join(
            f"  {self.classes[k]:<{width}} {share[k]:6.2f} % in {self.pictures[k]} pictures"
            for k in order
            if self.pixels[k]
        )


class _Examined(NamedTuple):
    """What is noted of an example: counts int64 [C] of its pixels by class."""

    name: str
    size: tuple[int, int]
    counts: np.ndarray
    ignored: int


def examine_labels(
    dataset: LabelledDataset, source, split: str, limit: int | None = None
) -> LabelReport:
    """Reads examples of a split, evenly spread, or all of them."""
    space = load_label_space(dataset.label_space)
    count = len(source)
    chosen = evenly(count, limit or count)

    def note(example: Mapping) -> _Examined:
        ignored = np.count_nonzero(example["label"] == space.ignore_label)
        size = example["image"].shape[:2]
        return _Examined(example["name"], size, _count(example, space), ignored)

    broken: list[str] = []
    good = [result for _, result in read_examples(source, chosen, note, split, broken)]
    counts = np.asarray([result.counts for result in good]).reshape(len(good), len(space))
    area = sum(math.prod(result.size) for result in good)
    report = LabelReport(
        split=split,
        count=count,
        classes=space.display_names,
        names=tuple(pair.name for pair in source.pairs),
        sizes=np.array([result.size for result in good]),
        pixels=counts.sum(axis=0),
        pictures=(counts > 0).sum(axis=0),
        ignored=sum(result.ignored for result in good) / max(area, 1),
    )
    report.findings += common_findings(dataset, report, broken)
    empty = [result.name for result in good if not result.counts.any()]
    if empty:
        report.findings.append(
            f"split {split} has {len(empty)} pictures without any labelled pixel "
            f"({some(empty)}); they teach and measure nothing"
        )
    # A part of a split may well lack a class.
    expected = _expected(source, space) if len(chosen) == count else ()
    if absent := [report.classes[k] for k in expected if not report.pixels[k]]:
        report.findings.append(
            f"split {split} has no pixel of {some(absent)}; if these should occur, the "
            "labels are in another order or only partly there"
        )
    return report


def _count(example: Mapping, space: LabelSpace) -> np.ndarray:
    """Pixels of each class, int64 [C]; of a mask of one class, those of the class."""
    label = example["label"]
    if "class_id" in example:
        return np.count_nonzero(label == 1) * (np.arange(len(space)) == example["class_id"])
    return np.bincount(label[label != space.ignore_label], minlength=len(space))


def _expected(source, space: LabelSpace) -> Sequence[int]:
    """Classes that a whole split should show."""
    if isinstance(source, ClassMasks):
        return np.unique(source.class_ids).tolist()
    return range(len(space))


def label_page(dataset: LabelledDataset, example: Mapping) -> Image.Image:
    """The label of an example, painted over its picture."""
    names = load_label_space(dataset.label_space).display_names
    shown = ("others", names[example["class_id"]]) if "class_id" in example else names
    return overlay(example["image"], example["label"], shown)
