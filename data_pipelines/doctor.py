"""Examines a data set on disk before hours are spent on it."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.datasets import DATASETS, Dataset
from data_pipelines.sources.class_masks import ClassMasks
from ovseg_jax.errors import UserError
from ovseg_jax.report.overlay import overlay
from ovseg_jax.text.label_space import LabelSpace, load_label_space
from ovseg_jax.training.logs import progress_bar

_SHOWN = 3  # examples of a finding that are named


@dataclasses.dataclass
class SplitReport:
    """What was found in one split.

    Attributes:
      split: its name.
      classes: names of the C classes.
      names: of all examples.
      sizes: (height, width) of the pictures that could be read.
      pixels: int64 [C], labelled pixels of each class.
      pictures: int64 [C], pictures that have it.
      ignored: share of pixels that do not count.
      findings: sentences, each with a remedy.
    """

    split: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    sizes: list[tuple[int, int]]
    pixels: np.ndarray
    pictures: np.ndarray
    ignored: float
    findings: list[str]

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

    def summary(self) -> str:
        """One line."""
        heights, widths = zip(*self.sizes, strict=True) if self.sizes else ((0,), (0,))
        return (
            f"{self.split}: {len(self.names)} pictures of {min(widths)}x{min(heights)} to "
            f"{max(widths)}x{max(heights)} pixels, {np.count_nonzero(self.pixels)} of "
            f"{len(self.pixels)} classes, {100 * self.ignored:.1f} % of the pixels ignored"
        )


class _Examined(NamedTuple):
    """What is noted of an example: counts int64 [C] of its pixels by class."""

    name: str
    size: tuple[int, int]
    counts: np.ndarray
    ignored: int


def examine(
    dataset: Dataset, root: str, splits: Sequence[str] = (), limit: int | None = None
) -> list[SplitReport]:
    """Reads all examples of the splits and notes what is wrong with them.

    Args:
      dataset: which.
      root: where it lies.
      splits: some of its splits; () = all that are there.
      limit: examples of each split that are read, evenly spread; None = all.

    Raises:
      UserError: a split that was asked for, or every split, is missing.
    """
    reports, missing = [], []
    for split in splits or dataset.splits:
        try:
            source = dataset.open(root, split)
        except UserError as error:
            if splits:
                raise
            missing.append(f"split {split} cannot be opened: {error}")
            continue
        reports.append(_examine_split(dataset, source, split, limit))
    if not reports:
        raise UserError(missing[0])
    reports[0].findings[:0] = missing
    _note_overlaps(reports)
    return reports


def _examine_split(dataset: Dataset, source, split: str, limit: int | None) -> SplitReport:
    space = load_label_space(dataset.label_space)
    count = len(source)
    chosen = _evenly(count, limit or count)

    def read(index: int):
        try:
            example = source[index]
        except UserError as error:
            return error
        ignored = np.count_nonzero(example["label"] == space.ignore_label)
        size = example["image"].shape[:2]
        return _Examined(example["name"], size, _count(example, space), ignored)

    with (
        progress_bar(len(chosen), label=split, unit="picture") as bar,
        ThreadPoolExecutor() as pool,
    ):
        found = []
        for result in pool.map(read, chosen):
            found.append(result)
            bar.update()
    broken = [result for result in found if isinstance(result, UserError)]
    good = [result for result in found if not isinstance(result, UserError)]
    counts = np.asarray([result.counts for result in good]).reshape(len(good), len(space))
    area = sum(math.prod(result.size) for result in good)
    report = SplitReport(
        split=split,
        classes=space.display_names,
        names=tuple(pair.name for pair in source.pairs),
        sizes=[result.size for result in good],
        pixels=counts.sum(axis=0),
        pictures=(counts > 0).sum(axis=0),
        ignored=sum(result.ignored for result in good) / max(area, 1),
        findings=[],
    )
    empty = [result.name for result in good if not result.counts.any()]
    # A part of a split may well lack a class.
    expected = _expected(source, space) if len(chosen) == count else ()
    report.findings += _findings(dataset, report, broken, empty, expected)
    return report


def _evenly(count: int, wanted: int) -> list[int]:
    """Some of `count` indices, spread evenly; all of them if no fewer are wanted."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int)).tolist()


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


def _findings(
    dataset: Dataset,
    report: SplitReport,
    broken: Sequence[UserError],
    empty: Sequence[str],
    expected: Sequence[int],
) -> list[str]:
    findings = []
    published = dataset.splits[report.split]
    if len(report.names) != published:
        findings.append(
            f"split {report.split} has {len(report.names)} pictures, published are {published}; "
            "look for files that are missing from the lists, unless this is a part or a twin"
        )
    if twice := sorted(name for name, times in Counter(report.names).items() if times > 1):
        findings.append(f"split {report.split} lists {_some(twice)} twice; mend the list")
    findings += [str(error) for error in broken[:_SHOWN]]
    if len(broken) > _SHOWN:
        findings.append(
            f"split {report.split} has {len(broken) - _SHOWN} more examples that cannot be read"
        )
    if empty:
        findings.append(
            f"split {report.split} has {len(empty)} pictures without any labelled pixel "
            f"({_some(empty)}); they teach and measure nothing"
        )
    absent = [report.classes[k] for k in expected if not report.pixels[k]]
    if absent:
        findings.append(
            f"split {report.split} has no pixel of {_some(absent)}; if these should occur, the "
            "labels are in another order or only partly there"
        )
    return findings


def _note_overlaps(reports: Sequence[SplitReport]) -> None:
    """Training and evaluation pictures must differ; a split may be part of another of training."""
    evaluated = [report for report in reports if report.split.startswith(("val", "test"))]
    for report in evaluated:
        for other in reports:
            common = sorted(set(report.names) & set(other.names))
            if other not in evaluated and common:
                report.findings.append(
                    f"splits {report.split} and {other.split} share {len(common)} pictures "
                    f"({_some(common)}); take them out of {other.split}"
                )


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def glance(name: str, root: Path, examples: int = 16) -> str:
    """Reads a few examples of each split of a data set or family.

    Returns:
      A line for each split.

    Raises:
      UserError: a split is missing, or one of the examples cannot be read.
    """
    dataset = next(d for key, d in DATASETS.items() if name in (key, d.preparation))
    lines = []
    for split in dataset.splits:
        source = dataset.open(str(root), split)
        chosen = _evenly(len(source), examples)
        for index in chosen:
            source[index]
        lines.append(f"{split}: {len(source)} examples, read {len(chosen)} of them")
    return "\n".join(lines)


def save_overlays(
    dataset: Dataset, root: str, reports: Sequence[SplitReport], folder: Path
) -> None:
    """Writes the labels of the first and the last picture of each split, painted over it."""
    names = load_label_space(dataset.label_space).display_names
    for report in reports:
        source = dataset.open(root, report.split)
        for index in sorted({0, len(source) - 1}):
            try:
                example = source[index]
            except UserError:  # is among the findings
                continue
            shown = ("others", names[example["class_id"]]) if "class_id" in example else names
            page = overlay(example["image"], example["label"], shown)
            folder.mkdir(parents=True, exist_ok=True)
            page.save(folder / f"{report.split}_{example['name'].replace('/', '_')}.png")
