"""What the doctor notes of any split."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from data_pipelines.datasets import Dataset
from data_pipelines.loader import in_order
from ovseg_jax.errors import UserError
from ovseg_jax.training.logs import progress_bar

SHOWN = 3  # examples of a finding that are named
_AHEAD = 256  # examples that are read or wait for it

Note = TypeVar("Note")


@dataclasses.dataclass(kw_only=True)
class SplitReport:
    """What was found in one split.

    Attributes:
      split: its name.
      count: its examples, read or not.
      names: of the examples, if they are listed of all, else of those read.
      sizes: int [n, 2], height and width of the pictures that could be read.
      findings: sentences, each with a remedy.
    """

    split: str
    count: int
    names: Sequence[str]
    sizes: np.ndarray
    findings: list[str] = dataclasses.field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        if len(self.sizes):
            (top, left), (bottom, right) = self.sizes.min(axis=0), self.sizes.max(axis=0)
            found = f"{self.count} pictures of {left}x{top} to {right}x{bottom} pixels"
        elif self.count:
            found = f"none of {self.count} pictures can be read"
        else:
            found = "no pictures"
        return ", ".join(filter(None, [f"{self.split}: {found}", self.details()]))

    def details(self) -> str:
        """The end of the summary; '' for none."""
        raise NotImplementedError

    def histogram(self) -> str:
        """A line for each class or length that occurs; '' for none."""
        raise NotImplementedError


def read_examples(
    source, indices: Sequence[int], note: Callable[[dict], Note], label: str, broken: list[str]
) -> Iterator[tuple[int, Note]]:
    """Reads examples in several threads; pictures are held for a moment only.

    Args:
      source: of the examples.
      indices: which.
      note: what to keep of one.
      label: of the progress bar.
      broken: gets what is wrong with those that cannot be read.

    Yields:
      The index and what was kept of each that could be read, in order.
    """

    def read(index: int) -> tuple[Note | None, str]:
        try:
            return note(source[index]), ""
        except UserError as error:  # as a text: the error itself would keep the picture's bytes
            return None, str(error)

    with (
        progress_bar(len(indices), label=label, unit="picture") as bar,
        ThreadPoolExecutor() as pool,
    ):
        results = in_order(pool, read, indices, _AHEAD)
        for index, (result, wrong) in zip(indices, results, strict=True):
            bar.update()
            if wrong:
                broken.append(wrong)
            else:
                yield index, result


def evenly(count: int, wanted: int) -> Sequence[int]:
    """Some of `count` indices, spread evenly; all of them if no fewer are wanted."""
    if wanted >= count:
        return range(count)
    return np.unique(np.linspace(0, count - 1, wanted).astype(int)).tolist()


def common_findings(dataset: Dataset, report: SplitReport, broken: Sequence[str]) -> list[str]:
    """What may be wrong with any split: too few examples, repeated or unreadable ones."""
    findings = []
    published = dataset.splits[report.split]
    if report.count != published:
        findings.append(
            f"split {report.split} has {report.count} pictures, published are {published}; "
            "look for files that are missing from the lists, unless this is a part or a twin"
        )
    if twice := repeated(report.names):
        findings.append(f"split {report.split} lists {some(twice)} twice; mend the list")
    findings += broken[:SHOWN]
    if len(broken) > SHOWN:
        findings.append(
            f"split {report.split} has {len(broken) - SHOWN} more examples that cannot be read"
        )
    return findings


def repeated(values: Sequence[str]) -> list[str]:
    """The values that occur more than once, sorted."""
    # Sorted, for a table of millions of values takes many times as much memory.
    return list(dict.fromkeys(a for a, b in itertools.pairwise(sorted(values)) if a == b))


def some(names: Sequence[str], total: int | None = None) -> str:
    """The first names, and how many more there are; of `total`, if some are left out already."""
    total = len(names) if total is None else total
    rest = f" and {total - SHOWN} more" if total > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
