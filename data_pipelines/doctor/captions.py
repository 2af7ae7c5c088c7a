"""What the doctor notes of pictures with captions."""

import dataclasses
import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.datasets import CaptionDataset
from data_pipelines.doctor.report import (
    SHOWN,
    SplitReport,
    common_findings,
    evenly,
    read_examples,
    some,
)
from ovseg_jax.report.captioned import captioned

_BINS = (1, 5, 10, 20, 50)  # words: 1 to 4, 5 to 9, …, 50 and more
_FREQUENT = 0.01  # share of the pictures from which on a repeated caption is named


@dataclasses.dataclass(kw_only=True)
class CaptionReport(SplitReport):
    """What was found in one split.

    Attributes:
      captions: int [n], captions of each picture that was read.
      words: int [m], words of each caption.
      incomplete: samples that the source leaves out for want of a picture or a caption.
    """

    captions: np.ndarray
    words: np.ndarray
    incomplete: int

    def details(self) -> str:
        """The end of the summary."""
        parts = []
        if len(self.words):
            parts.append(
                f"{self.captions.mean():.1f} captions each of {self.words.min()} to "
                f"{self.words.max()} words, half of them up to {np.median(self.words):.0f}"
            )
        if self.incomplete:
            parts.append(f"{self.incomplete} more samples lack picture or caption and are left out")
        return "; ".join(parts)

    def histogram(self) -> str:
        """A line for each range of words."""
        lines = []
        for first, after in zip((0, *_BINS), (*_BINS, np.inf), strict=True):
            number = np.count_nonzero((self.words >= first) & (self.words < after))
            upto = "or more" if after == np.inf else f"to {after - 1}"
            if number:
                lines.append(f"  {first} {upto} words: {100 * number / len(self.words):.2f} %")
        return "\n".join(lines)


class _Examined(NamedTuple):
    """What is noted of an example; digests stand for its pixels and its different captions."""

    name: str
    size: tuple[int, int]
    words: list[int]
    pixels: int
    texts: set[int]
    empty: bool


class _Notes:
    """The notes of all examples, which may be millions: numbers in arrays, and names."""

    def __init__(self):
        self.names: list[str] = []
        self.empty: list[str] = []  # names of those with an empty caption
        self.sizes = array("i")  # height, width, height, …
        self.captions = array("i")  # of each picture
        self.words = array("i")  # of each caption
        self.pixels = array("Q")
        self.texts = array("Q")
        self.owners = array("q")  # index of the example that each of the texts is of

    def add(self, index: int, example: _Examined) -> None:
        """Takes the notes of one example."""
        self.names.append(example.name)
        self.sizes.extend(example.size)
        self.captions.append(len(example.words))
        self.words.extend(example.words)
        self.pixels.append(example.pixels)
        self.texts.extend(example.texts)
        self.owners.extend([index] * len(example.texts))
        if example.empty:
            self.empty.append(example.name)


def examine_captions(
    dataset: CaptionDataset, source, split: str, limit: int | None = None
) -> CaptionReport:
    """Reads examples of a split, evenly spread, or all of them."""
    count = len(source)
    notes, broken = _Notes(), []
    for index, example in read_examples(
        source, evenly(count, limit or count), _note, split, broken
    ):
        notes.add(index, example)
    report = CaptionReport(
        split=split,
        count=count,
        names=notes.names,
        sizes=np.asarray(notes.sizes).reshape(-1, 2),
        captions=np.asarray(notes.captions),
        words=np.asarray(notes.words),
        incomplete=getattr(source, "incomplete", 0),
    )
    report.findings += common_findings(dataset, report, broken)
    report.findings += _caption_findings(split, source, notes)
    return report


def _captions(example: Mapping) -> Sequence[str]:
    return example.get("captions", (example["caption"],))


def _note(example: Mapping) -> _Examined:
    image, captions = example["image"], _captions(example)
    return _Examined(
        example["name"],
        image.shape[:2],
        [len(caption.split()) for caption in captions],
        _digest(image.tobytes()),
        {_text_digest(caption) for caption in captions if caption},
        not all(map(str.strip, captions)),
    )


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def _text_digest(text: str) -> int:
    return _digest(text.encode(errors="surrogatepass"))  # JSON may hold halves of a character


def _caption_findings(split: str, source, notes: _Notes) -> list[str]:
    findings = []
    if empty := notes.empty:
        findings.append(
            f"split {split} has {len(empty)} pictures with an empty caption ({some(empty)}); take "
            "them out, for no text tells them apart"
        )
    if same := _repetitions(np.asarray(notes.pixels), 2):
        shown = [_equal([notes.names[position] for position in group]) for group in same[:SHOWN]]
        findings.append(
            f"split {split} has {len(same)} pictures more than once ({some(shown, len(same))}); "
            "keep one of each, for in one batch they are each other's wrong answer"
        )
    texts = np.asarray(notes.texts)
    least = max(math.ceil(_FREQUENT * len(notes.names)), 2)
    if frequent := sorted(_repetitions(texts, least), key=len, reverse=True):
        # Digests alone were kept: the captions to be named are read again.
        shown = [
            f"{_caption(source[notes.owners[group[0]]], texts[group[0]])!r} {len(group)} times"
            for group in frequent[:SHOWN]
        ]
        findings.append(
            f"split {split} repeats captions ({some(shown, len(frequent))}); take out what a shop "
            "or a missing page says of every picture"
        )
    return findings


def _equal(names: Sequence[str]) -> str:
    return " = ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])])


def _repetitions(values: np.ndarray, least: int) -> list[np.ndarray]:
    """Where equal values stand, of those that occur at least so often; the earliest first."""
    order = np.argsort(values, kind="stable")
    _, starts, times = np.unique(values[order], return_index=True, return_counts=True)
    often = times >= least
    ranges = zip(starts[often], times[often], strict=True)
    return sorted((order[start : start + n] for start, n in ranges), key=lambda group: group[0])


def _caption(example: Mapping, digest: int) -> str:
    """The caption of an example that has this digest."""
    return next(text for text in _captions(example) if _text_digest(text) == digest)


def caption_page(dataset: CaptionDataset, example: Mapping) -> Image.Image:
    """A picture with its captions below."""
    return captioned(example["image"], _captions(example))
