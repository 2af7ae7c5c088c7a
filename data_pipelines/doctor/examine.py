"""The splits of a data set, one after the other, and what they share."""

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.datasets import DATASETS, CaptionDataset, Dataset
from data_pipelines.doctor.captions import caption_page, examine_captions
from data_pipelines.doctor.labels import examine_labels, label_page
from data_pipelines.doctor.report import SplitReport, evenly, some
from ovseg_jax.errors import UserError


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
      UserError: a split that was asked for, or every split, is missing; a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} examples reads none; give 1 or more")
    examine_split = examine_captions if isinstance(dataset, CaptionDataset) else examine_labels
    reports, missing = [], []
    for split in splits or dataset.splits:
        try:
            source = dataset.open(root, split)
        except UserError as error:
            if splits or len(dataset.splits) == 1:
                raise
            missing.append(f"split {split} cannot be opened: {error}")
            continue
        reports.append(examine_split(dataset, source, split, limit))
    if not reports:
        raise UserError(missing[0])
    reports[0].findings[:0] = missing
    _note_overlaps(reports)
    return reports


def _note_overlaps(reports: Sequence[SplitReport]) -> None:
    """Training and evaluation pictures must differ; a split may be part of another of training."""
    evaluated = [report for report in reports if report.split.startswith(("val", "test"))]
    for report in evaluated:
        for other in reports:
            common = sorted(set(report.names) & set(other.names))
            if other not in evaluated and common:
                report.findings.append(
                    f"splits {report.split} and {other.split} share {len(common)} pictures "
                    f"({some(common)}); take them out of {other.split}"
                )


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
        chosen = evenly(len(source), examples)
        for index in chosen:
            source[index]
        lines.append(f"{split}: {len(source)} examples, read {len(chosen)} of them")
    return "\n".join(lines)


def save_pages(dataset: Dataset, root: str, reports: Sequence[SplitReport], folder: Path) -> None:
    """Writes the first and the last picture of each split with their labels or captions."""
    page = caption_page if isinstance(dataset, CaptionDataset) else label_page
    for report in reports:
        source = dataset.open(root, report.split)
        for index in evenly(len(source), 2):
            try:
                example = source[index]
            except UserError:  # is among the findings
                continue
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{report.split}_{example['name'].replace('/', '_')}.png"
            page(dataset, example).save(folder / name)
