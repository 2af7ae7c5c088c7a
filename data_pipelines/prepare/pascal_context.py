"""Pascal Context: the MATLAB annotations as label images, the lists of the splits, and a twin."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.prepare import matlab
from data_pipelines.prepare.images import encode
from data_pipelines.prepare.jobs import Job, run_jobs
from data_pipelines.prepare.scenes import draw_splits
from data_pipelines.sources.labelled import LabelTable
from data_pipelines.sources.layouts import find_root, read_names, write_names
from data_pipelines.sources.pascal_context import (
    ARCHIVE,
    LABELS,
    SPLITS,
    VOID_459,
    find_voc2010,
    list_path,
)
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.text.label_space import load_label_space

ANNOTATIONS = "trainval.tar.gz (annotations of the Pascal Context project)"
CATEGORIES = range(1, 460)  # values of a LabelMap


def prepare(source: Path, output: Path) -> str:
    """Adds Context's labels and lists to VOC 2010.

    Args:
      source: where Context's archive was unpacked: it holds `trainval/2008_000002.mat`, whose
        `LabelMap` uint16 [H, W] has the values 1..459.
      output: the folder VOC2010, or the one in which VOC's archive was unpacked.

    Returns:
      A sentence about what was made.

    Raises:
      UserError: a missing folder or list, no annotation, or one that cannot be read.
    """
    annotations = find_root(source, "trainval", (), ANNOTATIONS) / "trainval"
    annotated = {path.stem for path in annotations.glob("*.mat")}
    if not annotated:
        raise UserError(f"no *.mat in {str(annotations)!r}; unpack {ANNOTATIONS} again")
    folder = find_voc2010(output)
    names = {split: sorted(annotated.intersection(_voc_names(folder, split))) for split in SPLITS}
    made = _write_labels(annotations, folder, [name for split in SPLITS for name in names[split]])
    for split in SPLITS:
        write_names(list_path(folder, split), names[split])
    counts = " and ".join(f"{len(names[split])} for {split}" for split in SPLITS)
    return f"labels with 60 and with 459 classes in {folder}, {counts}; {made} files are new"


def _voc_names(folder: Path, split: str) -> list[str]:
    return read_names(folder / "ImageSets" / "Main" / f"{split}.txt", f"unpack {ARCHIVE} again")


def _write_labels(annotations: Path, folder: Path, names: list[str]) -> int:
    made = 0
    for classes, read in ((60, read_60), (459, read_459)):
        labels = folder / LABELS[classes]
        jobs = [Job(annotations / f"{name}.mat", labels / f"{name}.png") for name in names]
        made += run_jobs(jobs, read, f"Context, {classes} classes")
    return made


def read_60(path: Path) -> bytes:
    """An annotation as a PNG of 8 bits: 0 background, 1..59 in the order of the categories."""
    background = dict.fromkeys((0, *CATEGORIES), 0)
    classes = {value: index + 1 for index, value in enumerate(frequent_categories())}
    return encode(_read(path, background | classes).astype(np.uint8), ".png")


def read_459(path: Path) -> bytes:
    """An annotation as a PNG of 16 bits: 0..458, and 459 where nothing is annotated."""
    classes = {value: value - 1 for value in CATEGORIES}
    return encode(_read(path, {0: VOID_459} | classes).astype(np.uint16), ".png")


def frequent_categories() -> list[int]:
    """LabelMap's values of the 59 classes."""
    return load_label_space("context59_zsseg").extra["source_ids"]


def _read(path: Path, classes: Mapping[int, int]) -> np.ndarray:
    remedy = f"Context's categories are 1..{len(CATEGORIES)}; unpack {ANNOTATIONS} again"
    return LabelTable.of(classes, bits=16, remedy=remedy)(matlab.read(path)["LabelMap"], path)


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn examples for each split as both archives unpack, and prepares them."""
    folder = output / "VOCdevkit" / "VOC2010"
    accordion = 1  # background to the 59 classes
    names = {split: [] for split in SPLITS}
    years = {"train": 2008, "val": 2010}
    values = (accordion, *frequent_categories())
    for split, number, image, label in draw_splits(SPLITS, count, values, void=None):
        name = f"{years[split]}_{number:06d}"
        names[split].append(name)
        atomic_write(folder / "JPEGImages" / f"{name}.jpg", encode(image, ".jpg"))
        annotation = matlab.write({"LabelMap": label.astype(np.uint16)})
        atomic_write(output / "trainval" / f"{name}.mat", annotation)
    for split in SPLITS:
        write_names(folder / "ImageSets" / "Main" / f"{split}.txt", names[split])
    return prepare(output, output)
