"""Pascal VOC 2012: the labels of SBD as palette PNGs, and a twin."""

from pathlib import Path

import numpy as np

from data_pipelines.prepare import matlab
from data_pipelines.prepare.images import encode, palette_png
from data_pipelines.prepare.jobs import Job, run_jobs
from data_pipelines.prepare.scenes import draw_scene
from data_pipelines.sources.layouts import find_root, read_names, write_names
from data_pipelines.sources.voc import CLASSES, VOID, find_voc
from ovseg_jax.files import atomic_write

SBD_ARCHIVE = "benchmark.tgz (SBD, the Semantic Boundaries Dataset)"


def prepare(source: Path, output: Path) -> str:
    """Adds SBD's labels to VOC 2012.

    Those of SBD's images that VOC itself does not label are the 9118 of `aug.txt`; with VOC's
    training images they make the 10 582 of the literature.

    Args:
      source: where SBD's archive was unpacked.
      output: the folder VOC2012.

    Returns:
      A sentence about what was made.
    """
    dataset = find_root(source, "cls", ("dataset", "benchmark_RELEASE/dataset"), SBD_ARCHIVE)
    folder = find_voc(output)
    lists = folder / "ImageSets" / "Segmentation"
    voc = {n for split in ("train", "val") for n in read_names(lists / f"{split}.txt", "")}
    remedy = f"unpack {SBD_ARCHIVE} again"
    sbd = [n for split in ("train", "val") for n in read_names(dataset / f"{split}.txt", remedy)]
    names = sorted(set(sbd) - voc)
    labels = folder / "SegmentationClassAug"
    jobs = [Job(dataset / "cls" / f"{name}.mat", labels / f"{name}.png") for name in names]
    made = run_jobs(jobs, read_sbd, "SBD labels")
    write_names(lists / "aug.txt", names)
    return f"{len(names)} labels in {labels}, {made} of them new; {lists / 'aug.txt'} lists them"


def read_sbd(path: Path) -> bytes:
    """A label of SBD (MATLAB) as a palette PNG.

    Raises:
      ValueError: the file is damaged.
    """
    label = matlab.read(path)["GTcls"]["Segmentation"][0, 0]
    return palette_png(label.astype(np.uint8))


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn examples for each split in VOC's layout, SBD's labels prepared."""
    folder = output / "VOCdevkit" / "VOC2012"
    for number, split in enumerate(("train", "aug", "val")):
        names = [f"{2007 + number}_{k + 1:06d}" for k in range(count)]
        labels = folder / ("SegmentationClassAug" if split == "aug" else "SegmentationClass")
        for k, name in enumerate(names):
            image, label = draw_scene(number * count + k, range(CLASSES + 1), VOID)
            atomic_write(folder / "JPEGImages" / f"{name}.jpg", encode(image, ".jpg"))
            atomic_write(labels / f"{name}.png", palette_png(label.astype(np.uint8)))
        write_names(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    return f"{3 * count} examples in {folder}"
