"""Pictures with label images: what the data sets on disk have in common."""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ovseg_jax.errors import UserError

FORBIDDEN = -1  # in a table: a value that no label image may hold


class Pair(NamedTuple):
    """Files of one example."""

    name: str
    image: Path | str
    label: Path | str | None = None


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """What every stored label value becomes.

    Attributes:
      classes: int [V], the class (or the ignore label) of the stored values 0..V-1; `FORBIDDEN`
        where a value must not occur.
      remedy: what to check where one does.
    """

    classes: np.ndarray
    remedy: str

    @classmethod
    def of(
        cls, classes: Mapping[int, int], *, other: int = FORBIDDEN, bits: int = 8, remedy: str
    ) -> "LabelTable":
        """From the class of each stored value; all `other` values share one."""
        table = np.full(2**bits, other, np.int32)
        table[list(classes)] = list(classes.values())
        return cls(table, remedy)

    def __call__(self, label: np.ndarray, path: Path | str) -> np.ndarray:
        """Stored values [H, W] -> classes, uint8 where those of 8-bit labels fit, else int32.

        Raises:
          UserError: a value that must not occur.
        """
        if label.max(initial=0) >= len(self.classes):
            self._refuse(label.max(), path)
        refused = self._forbidden[label]
        if refused.any():
            self._refuse(label[refused][0], path)
        return (self._bytes if label.dtype == np.uint8 else self.classes)[label]

    @functools.cached_property
    def _forbidden(self) -> np.ndarray:
        return self.classes == FORBIDDEN

    @functools.cached_property
    def _bytes(self) -> np.ndarray:
        """The part for 8-bit labels, as narrow as possible."""
        table = self.classes[:256]
        return table.astype(np.uint8 if table.max() <= 255 else np.int32)

    def _refuse(self, value: int, path: Path | str) -> None:
        raise UserError(f"the label {str(path)!r} has the value {int(value)}, but {self.remedy}")


def read_image(path: Path | str, oriented: bool = True) -> np.ndarray:
    """Decodes an image file; see `decode_image`.

    Raises:
      UserError: the file is missing or no image.
    """
    # Decoded from memory, for OpenCV cannot open every path and prints warnings of its own.
    return decode_image(_read(path), path, oriented)


def decode_image(
    data: np.ndarray,
    path: Path | str,
    oriented: bool = True,
    remedy: str = "is it damaged or no image?",
) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 3] RGB.

    Args:
      data: uint8 [n], of any format OpenCV reads; grey and 16-bit images become 8-bit RGB.
      path: where it comes from, for the message.
      oriented: whether to apply the orientation noted by the camera.
      remedy: the end of the message.

    Raises:
      UserError: the data are no image, or one of more pixels than OpenCV reads.
    """
    flags = cv2.IMREAD_COLOR if oriented else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(data, flags)
    if image is None:
        raise UserError(f"cannot read the image {str(path)!r}; {remedy}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_label(path: Path | str) -> np.ndarray:
    """Decodes a label file; see `decode_label`.

    Raises:
      UserError: the file is missing, no image, or in colour.
    """
    return decode_label(_read(path), path)


def decode_label(data: np.ndarray, path: Path | str) -> np.ndarray:
    """Decodes a label image to class indices, uint8 or int32 [H, W].

    Args:
      data: uint8 [n].
      path: where it comes from, for the message.

    Raises:
      UserError: the data are no image, one in colour, or one of more pixels than PIL or OpenCV
        read.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in ("P", "1"):  # OpenCV would turn indices into colours
                return np.asarray(image).astype(np.uint8)
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the label {str(path)!r}; is it damaged?") from error
    label = _decode(data, cv2.IMREAD_UNCHANGED)
    if label is None:
        raise UserError(f"cannot read the label {str(path)!r}; is it damaged?")
    if label.ndim != 2:
        raise UserError(
            f"the label {str(path)!r} is in colour; store class indices as a grey or palette PNG"
        )
    return label if label.dtype == np.uint8 else label.astype(np.int32)


def _decode(data: np.ndarray, flags: int) -> np.ndarray | None:
    """What OpenCV makes of a file; None where it refuses it, as it does with too many pixels."""
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:
        return None


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


def _as_stored(path: Path | str, label_path: Path | str, label: np.ndarray) -> np.ndarray:
    image = read_image(path, oriented=False)
    if label.shape != image.shape[:2]:
        raise UserError(
            f"the label {str(label_path)!r} has {_size(label)} pixels and its image "
            f"{_size(image)}; both must have the same size"
        )
    return image


class LabelledImages:
    """Examples from pairs of files.

    They have `image` uint8 [H, W, 3] RGB; `name`, the image's name without its ending; `path`;
    and, if there are labels, `label` uint8 or int32 [H, W].

    The orientation that a camera notes (EXIF) is applied. A label that fits only the pixels as
    stored was drawn on these; then they are taken as stored.

    Palette labels (Pascal VOC) are read as indices, not as colours.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        table: LabelTable,
        decode: Callable[[Path | str], np.ndarray] = read_label,
    ):
        """Takes the files; nothing is decoded yet.

        Args:
          pairs: of each example.
          table: of the stored labels.
          decode: reads the stored values [H, W] of a label file.
        """
        self.pairs = tuple(pairs)
        self.table = table
        self.decode = decode

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        """Reads one image and its label.

        Raises:
          UserError: an unreadable file, a colour label, a label of another size than the image, or
            one with values that have no class.
        """
        name, path, label_path = self.pairs[index]
        example = {"image": read_image(path), "name": name, "path": str(path)}
        if label_path is None:
            return example
        label = self.decode(label_path)
        if label.shape != example["image"].shape[:2]:
            example["image"] = _as_stored(path, label_path, label)
        return example | {"label": self.table(label, label_path)}
