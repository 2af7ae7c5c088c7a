"""A user's own folder of images, with label images if there are any."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.sources.labelled import FORBIDDEN, LabelledImages, LabelTable, Pair
from ovseg_jax.errors import UserError
from ovseg_jax.metrics import mmseg

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class FolderSource(LabelledImages):
    """Images of a folder, matched with label images by name; see `LabelledImages`."""

    def __init__(
        self,
        images: str,
        labels: str = "",
        suffixes: Sequence[str] = _ENDINGS,
        label_suffix: str = ".png",
        num_classes: int = 0,
        ignore_label: int = 255,
        reduce_zero_label: bool = False,
        label_map: Mapping[int, int] | Sequence[tuple[int, int]] = (),
    ):
        """Lists the images and finds their labels; nothing is decoded yet.

        Args:
          images: a folder, searched with its subfolders, or a pattern such as 'pictures/*.jpg'.
          labels: a folder; '' if there are none. The label of 'a/b.jpg' is 'a/b.png' in it, or
            'b.png' if `images` is a pattern.
          suffixes: endings that make an image's name, longest first where several fit. Endings
            may be longer than the file type ('_leftImg8bit.png').
          label_suffix: ending of a label's name in place of the image's ('_labelTrainIds.png').
          num_classes: classes of the vocabulary; labels beyond are errors. 0 if not known.
          ignore_label: label of pixels that do not count.
          reduce_zero_label: whether stored label 0 means nothing and 1 is the first class.
          label_map: stored labels to replace, one after the other, before 0 is reduced.

        Raises:
          UserError: a missing folder, no images, or an image without a label.
        """
        if labels and not Path(labels).is_dir():
            raise UserError(f"the label folder {labels!r} does not exist; check the path")
        listed = _list_images(images, labels, suffixes, label_suffix)
        if not listed:
            raise UserError(f"{images!r} has no images; looked for {', '.join(suffixes)}")
        pairs = [
            Pair(name, path, _find_label(labels, label_suffix, name, path) if labels else None)
            for name, path in listed
        ]
        table = _label_table(num_classes, ignore_label, reduce_zero_label, dict(label_map))
        super().__init__(pairs, table)


def _label_table(
    num_classes: int, ignore_label: int, reduce_zero_label: bool, label_map: Mapping[int, int]
) -> LabelTable:
    """The rules of mmsegmentation, applied once to every value that 16 bits can store."""
    classes = mmseg.map_labels(np.arange(2**16, dtype=np.int32), label_map)
    if reduce_zero_label:
        classes = mmseg.reduce_zero_label(classes, ignore_label)
    if num_classes:
        classes[(classes >= num_classes) & (classes != ignore_label)] = FORBIDDEN
    remedy = (
        f"the vocabulary has {num_classes} classes (0..{num_classes - 1}) and ignores "
        f"{ignore_label}; check label_map and reduce_zero_label"
    )
    return LabelTable(classes, remedy)


def _list_images(
    images: str, labels: str, suffixes: Sequence[str], label_suffix: str
) -> list[tuple[str, Path]]:
    """Name (without ending) and path of each image, sorted by path."""
    root = Path(images)
    if glob.has_magic(images):
        found = [(Path(name).name, Path(name)) for name in glob.glob(images, recursive=True)]
    elif root.is_dir():
        found = [(path.relative_to(root).as_posix(), path) for path in root.rglob("*")]
    else:
        raise UserError(f"the image folder {images!r} does not exist; check the path")
    suffixes = sorted(suffixes, key=len, reverse=True)
    label_folder = Path(labels).resolve() if labels else None
    listed = []
    for name, path in sorted(found, key=lambda pair: pair[1]):
        ending = next((end for end in suffixes if name.lower().endswith(end.lower())), None)
        # Images and labels may lie in one folder; the more particular ending decides.
        is_label = (
            ending is not None
            and path.parent.resolve() == label_folder
            and name.endswith(label_suffix)
            and len(label_suffix) >= len(ending)
        )
        if ending is not None and not is_label:
            listed.append((name[: -len(ending)], path))
    return listed


def _find_label(labels: str, label_suffix: str, name: str, image: Path) -> Path:
    path = Path(labels) / (name + label_suffix)
    if not path.is_file():
        raise UserError(
            f"the image {str(image)!r} has no label; expected {str(path)!r} (label_suffix sets its "
            "ending)"
        )
    return path
