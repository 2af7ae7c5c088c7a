"""ADE20K with 847 classes: smaller images, object masks as labels of 16 bits, and a twin."""

from pathlib import Path

import cv2
import numpy as np

from data_pipelines.prepare.images import encode
from data_pipelines.prepare.jobs import Job, run_jobs
from data_pipelines.prepare.scenes import draw_splits
from data_pipelines.sources.ade20k import FOLDERS
from data_pipelines.sources.ade20k_full import CLASSES, IMAGES, LABELS, VOID
from data_pipelines.sources.labelled import read_image
from data_pipelines.sources.layouts import find_root, pair_folders
from ovseg_jax.files import atomic_write
from ovseg_jax.text.label_space import load_label_space

ARCHIVE = "ADE20K_2021_17_01.zip"
SHORT_SIDE = 512  # at most; figures of the 847 classes are measured at this size


def prepare(source: Path, output: Path) -> str:
    """Makes images and labels of the 847 classes.

    Args:
      source: the folder ADE20K_2021_17_01, or the one in which the archive was unpacked. It holds
        `images/ADE/validation/<group>/<scene>/ADE_val_00000001.jpg` and, beside each image,
        `ADE_val_00000001_seg.png`, in whose colours the objects are coded.
      output: a folder; gets `images_detectron2/` and `annotations_detectron2/`, as MaskFormer
        calls them. May be the same.

    Returns:
      A sentence about what was made.

    Raises:
      UserError: a missing or empty folder, a file that cannot be read.
    """
    folder = find_root(source, "images/ADE", ("ADE20K_2021_17_01",), ARCHIVE) / "images" / "ADE"
    images, labels = [], []
    for part in FOLDERS.values():
        there = folder / part
        for pair in pair_folders(there, ".jpg", there, "_seg.png", f"unpack {ARCHIVE} again"):
            images.append(Job(pair.image, output / IMAGES / part / f"{pair.name}.jpg"))
            labels.append(Job(pair.label, output / LABELS / part / f"{pair.name}.tif"))
    made = run_jobs(images, read_shrunk, "ADE20K images")
    made += run_jobs(labels, read_objects, "ADE20K labels")
    return f"{len(images)} images and their labels in {output}; {made} files are new"


def read_shrunk(path: Path) -> bytes:
    """An image as JPEG; one that is small enough stays as it is, byte for byte."""
    image = read_image(path, oriented=False)
    shrunk = shrink(image, cv2.INTER_LINEAR)
    return path.read_bytes() if shrunk is image else encode(shrunk, ".jpg")


def read_objects(path: Path) -> bytes:
    """A coloured mask as TIFF of 16 bits with the indices of the 847 classes."""
    classes = np.full(2**16, VOID, np.uint16)
    classes[object_classes()] = np.arange(CLASSES)
    label = classes[object_ids(read_image(path, oriented=False))]
    return encode(shrink(label, cv2.INTER_NEAREST), ".tif")


def object_classes() -> list[int]:
    """The release's object number of each class."""
    return load_label_space("ade847").extra["source_ids"]


def object_ids(mask: np.ndarray) -> np.ndarray:
    """Colours of a mask uint8 [H, W, 3] -> object numbers int32 [H, W]; 0 is no object.

    Red counts in tens the 256s, green the rest; blue tells instances apart.
    """
    red, green = mask[..., 0].astype(np.int32), mask[..., 1].astype(np.int32)
    return red // 10 * 256 + green


def colour_mask(ids: np.ndarray) -> np.ndarray:
    """Object numbers [H, W] -> colours uint8 [H, W, 3] of a mask with no instances."""
    return np.stack([ids // 256 * 10, ids % 256, np.zeros_like(ids)], axis=-1).astype(np.uint8)


def shrink(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    """A picture or label whose short side is 512 at most; the same array where it was so."""
    height, width = pixels.shape[:2]
    if min(height, width) <= SHORT_SIDE:
        return pixels
    scale = SHORT_SIDE / min(height, width)
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    return cv2.resize(pixels, size, interpolation=interpolation)


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn examples for each split as the archive unpacks, and prepares them."""
    folder = output / "ADE20K_2021_17_01" / "images" / "ADE"
    for split, number, image, ids in draw_splits([*FOLDERS], count, object_classes(), void=0):
        scene = folder / FOLDERS[split] / "urban" / "street"
        name = f"ADE_{split}_{number:08d}"
        atomic_write(scene / f"{name}.jpg", encode(image, ".jpg"))
        atomic_write(scene / f"{name}_seg.png", encode(colour_mask(ids), ".png"))
    return prepare(output, output)
