"""What the doctor notes of pictures with captions."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.datasets import CaptionDataset
from data_pipelines.doctor.report import (
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
      captions: int64 [n], captions of each picture that was read.
      words: int64 [m], words of each caption.
      incomplete: samples that the source leaves out for want of a picture or a caption.
    """

    captions: np.ndarray
    words: np.ndarray
    incomplete: int

    def details(self) -> str:
        """The end of the summary."""
        if not len(self.words):
            return "none of which can be read"
        text = (
            f"{self.captions.mean():.1f} captions each of {self.words.min()} to "
            f"{self.words.max()} words, half of them up to {np.median(self.words):.0f}"
        )
        if self.incomplete:
            text += f"; {self.incomplete} more samples lack picture or caption and are left out"
        return text

    def histogram(self) -> str:
        """A line for each range of words."""
        lines = []
        for first, after in zip((0, *_BINS), (*_BINS, np.inf), strict=True):
            share = 100 * ((self.words >= first) & (self.words < after)).mean()
            upto = "or more" if after == np.inf else f"to {after - 1}"
            if share:
                lines.append(f"  {first} {upto} words: {share:.2f} %")
        return "\n".join(lines)


class _Examined(NamedTuple):
    """What is noted of an example; the digest is that of its pixels."""

    name: str
    size: tuple[int, int]
    captions: tuple[str, ...]
    digest: bytes


def examine_captions(
    dataset: CaptionDataset, source, split: str, limit: int | None = None
) -> CaptionReport:
    """Reads examples of a split, evenly spread, or all of them."""
    count = len(source)
    good, broken = read_examples(source, evenly(count, limit or count), _note, split)
    words = [len(caption.split()) for result in good for caption in result.captions]
    report = CaptionReport(
        split=split,
        count=count,
        names=tuple(result.name for result in good),
        sizes=[result.size for result in good],
        captions=np.array([len(result.captions) for result in good], np.int64),
        words=np.array(words, np.int64),
        incomplete=getattr(source, "incomplete", 0),
    )
    report.findings += common_findings(dataset, report, broken)
    report.findings += _caption_findings(split, good)
    return report


def _note(example: Mapping) -> _Examined:
    image = example["image"]
    captions = example.get("captions", (example["caption"],))
    digest = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
    return _Examined(example["name"], image.shape[:2], captions, digest)


def _caption_findings(split: str, examples: list[_Examined]) -> list[str]:
    findings = []
    if empty := [e.name for e in examples if not all(map(str.strip, e.captions))]:
        findings.append(
            f"split {split} has {len(empty)} pictures with an empty caption ({some(empty)}); take "
            "them out, for no text tells them apart"
        )
    same = defaultdict(list)
    for example in examples:
        same[example.digest].append(example.name)
    if groups := [" = ".join(names) for names in same.values() if len(names) > 1]:
        findings.append(
            f"split {split} has {len(groups)} pictures more than once ({some(groups)}); keep one "
            "of each, for in one batch they are each other's wrong answer"
        )
    times = Counter(caption for e in examples for caption in set(e.captions) if caption)
    least = max(_FREQUENT * len(examples), 2)
    if frequent := [f"{text!r} {n} times" for text, n in times.most_common() if n >= least]:
        findings.append(
            f"split {split} repeats captions ({some(frequent)}); take out what a shop or a "
            "missing page says of every picture"
        )
    return findings


def caption_page(dataset: CaptionDataset, example: Mapping) -> Image.Image:
    """A picture with its captions below."""
    return captioned(example["image"], example.get("captions", (example["caption"],)))
