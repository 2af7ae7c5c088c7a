"""A user's own folder of images, with label images if there are any."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ovseg_jax.errors import UserError
from ovseg_jax.metrics import mmseg

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class FolderSource:
    """Images of a folder, matched with label images by name.

    Examples have `image` uint8 [H, W, 3] RGB; `name`, the image's name without its ending;
    `path`; and, if there is a label folder, `label` uint8 or int32 [H, W].

    The orientation that a camera notes (EXIF) is applied. A label that fits only the pixels as
    stored was drawn on these; then they are taken as stored.

    Palette labels (Pascal VOC) are read as indices, not as colours.
    """

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
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.reduce_zero_label = reduce_zero_label
        self.label_map = dict(label_map)
        if labels and not Path(labels).is_dir():
            raise UserError(f"the label folder {labels!r} does not exist; check the path")
        self._images = _list_images(images, labels, suffixes, label_suffix)
        if not self._images:
            raise UserError(f"{images!r} has no images; looked for {', '.join(suffixes)}")
        self._labels = None
        if labels:
            self._labels = [_find_label(labels, label_suffix, *pair) for pair in self._images]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def __getitem__(self, index: int) -> dict:
        """Reads one image and its label.

        Raises:
          UserError: an unreadable file, a colour label, a label of another size than the image, or
            one with values beyond the vocabulary.
        """
        name, path = self._images[index]
        example = {"image": read_image(path), "name": name, "path": str(path)}
        if self._labels is None:
            return example
        label_path = self._labels[index]
        label = read_label(label_path)
        if label.shape != example["image"].shape[:2]:
            example["image"] = self._unrotated(path, label_path, label)
        return example | {"label": self._to_classes(label, label_path)}

    @staticmethod
    def _unrotated(path: Path, label_path: Path, label: np.ndarray) -> np.ndarray:
        image = read_image(path, oriented=False)
        if label.shape != image.shape[:2]:
            raise UserError(
                f"the label {str(label_path)!r} has {_size(label)} pixels and its image "
                f"{_size(image)}; both must have the same size"
            )
        return image

    def _to_classes(self, label: np.ndarray, path: Path) -> np.ndarray:
        if self.label_map:
            # A wider type, for an 8-bit one could not hold every new value.
            label = mmseg.map_labels(label.astype(np.int32), self.label_map)
        if self.reduce_zero_label:
            label = mmseg.reduce_zero_label(label, self.ignore_label)
        if self.num_classes:
            beyond = label[(label >= self.num_classes) & (label != self.ignore_label)]
            if beyond.size:
                raise UserError(
                    f"the label {str(path)!r} has the value {int(beyond[0])}, but the vocabulary "
                    f"has {self.num_classes} classes (0..{self.num_classes - 1}) and ignores "
                    f"{self.ignore_label}; check label_map and reduce_zero_label"
                )
        return label


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


def read_image(path: Path | str, oriented: bool = True) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 3] RGB.

    Args:
      path: any format OpenCV reads; grey and 16-bit images become 8-bit RGB.
      oriented: whether to apply the orientation noted by the camera.

    Raises:
      UserError: the file is missing or no image.
    """
    flags = cv2.IMREAD_COLOR if oriented else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    # Decoded from memory, for OpenCV cannot open every path and prints warnings of its own.
    image = cv2.imdecode(_read(path), flags)
    if image is None:
        raise UserError(f"cannot read the image {str(path)!r}; is it damaged or no image?")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_label(path: Path | str) -> np.ndarray:
    """Decodes a label image to class indices, uint8 or int32 [H, W].

    Raises:
      UserError: the file is missing, no image, or in colour.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "1"):  # OpenCV would turn indices into colours
                return np.asarray(image).astype(np.uint8)
    except OSError as error:
        raise UserError(f"cannot read the label {str(path)!r}; is it damaged?") from error
    label = cv2.imdecode(_read(path), cv2.IMREAD_UNCHANGED)
    if label is None:
        raise UserError(f"cannot read the label {str(path)!r}; is it damaged?")
    if label.ndim != 2:
        raise UserError(
            f"the label {str(path)!r} is in colour; store class indices as a grey or palette PNG"
        )
    return label if label.dtype == np.uint8 else label.astype(np.int32)


def _read(path: Path | str) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"cannot open {str(path)!r}; does it exist?") from error
    if data.size == 0:
        raise UserError(f"the file {str(path)!r} is empty; fetch it again")
    return data


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
