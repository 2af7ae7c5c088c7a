"""What the doctor notes of any split."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from data_pipelines.datasets import Dataset
from ovseg_jax.errors import UserError
from ovseg_jax.training.logs import progress_bar

_SHOWN = 3  # examples of a finding that are named

Note = TypeVar("Note")


@dataclasses.dataclass(kw_only=True)
class SplitReport:
    """What was found in one split.

    Attributes:
      split: its name.
      count: its examples, read or not.
      names: of the examples, if they are listed of all, else of those read.
      sizes: (height, width) of the pictures that could be read.
      findings: sentences, each with a remedy.
    """

    split: str
    count: int
    names: tuple[str, ...]
    sizes: list[tuple[int, int]]
    findings: list[str] = dataclasses.field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        heights, widths = zip(*self.sizes, strict=True) if self.sizes else ((0,), (0,))
        return (
            f"{self.split}: {self.count} pictures of {min(widths)}x{min(heights)} to "
            f"{max(widths)}x{max(heights)} pixels, {self.details()}"
        )

    def details(self) -> str:
        """The end of the summary."""
        raise NotImplementedError

    def histogram(self) -> str:
        """A line for each class or length that occurs."""
        raise NotImplementedError


def read_examples(
    source, indices: Sequence[int], note: Callable[[dict], Note], label: str
) -> tuple[list[Note], list[UserError]]:
    """Reads examples in several threads.

    Args:
      source: of the examples.
      indices: which.
      note: what to keep of one.
      label: of the progress bar.

    Returns:
      What was kept of those that could be read, and the errors of the others.
    """

    def read(index: int) -> Note | UserError:
        try:
            return note(source[index])
        except UserError as error:
            return error

    found = []
    with progress_bar(len(indices), label=label, unit="picture") as bar, ThreadPoolExecutor() as p:
        for result in p.map(read, indices):
            found.append(result)
            bar.update()
    broken = [result for result in found if isinstance(result, UserError)]
    return [result for result in found if not isinstance(result, UserError)], broken


def evenly(count: int, wanted: int) -> list[int]:
    """Some of `count` indices, spread evenly; all of them if no fewer are wanted."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int)).tolist()


def common_findings(
    dataset: Dataset, report: SplitReport, broken: Sequence[UserError]
) -> list[str]:
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
    findings += [str(error) for error in broken[:_SHOWN]]
    if len(broken) > _SHOWN:
        findings.append(
            f"split {report.split} has {len(broken) - _SHOWN} more examples that cannot be read"
        )
    return findings


def repeated(values: Sequence[str]) -> list[str]:
    """The values that occur more than once, sorted."""
    return sorted(value for value, times in Counter(values).items() if times > 1)


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
