"""Finding one's way in the folders that official archives unpack to."""

from collections.abc import Collection, Sequence
from pathlib import Path

from data_pipelines.sources.labelled import Pair
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write


def find_root(root: str | Path, marker: str, below: Sequence[str], archive: str) -> Path:
    """The folder that holds `marker`: the one given, or one `below` it.

    Args:
      root: given by the user.
      marker: a file or folder that tells the data set.
      below: folders that the archive unpacks to, relative to where it was unpacked.
      archive: what to unpack, for the message.

    Raises:
      UserError: there is no such folder.
    """
    for candidate in ("", *below):
        if (Path(root) / candidate / marker).exists():
            return Path(root) / candidate
    raise UserError(f"no {marker} in {str(root)!r}; unpack {archive} there, or give its folder")


def first_folder(root: str | Path, places: Sequence[str], pattern: str, archive: str) -> Path:
    """The first of some folders that holds such files.

    Args:
      root: given by the user.
      places: folders in it; of those that do not exist or hold nothing, nothing is said.
      pattern: of the files, '*.png'.
      archive: what to unpack, for the message.

    Raises:
      UserError: there is no such folder.
    """
    for place in places:
        if next((Path(root) / place).glob(pattern), None):
            return Path(root) / place
    raise UserError(f"no {pattern} in {', '.join(places)} of {str(root)!r}; unpack {archive} there")


def read_names(path: Path, remedy: str) -> list[str]:
    """The first word of each line of a list of images.

    Raises:
      UserError: the list is missing or empty.
    """
    if not path.is_file():
        raise UserError(f"the list {str(path)!r} is missing; {remedy}")
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise UserError(f"the list {str(path)!r} is empty; {remedy}")
    return names


def write_names(path: Path, names: Sequence[str]) -> None:
    """Writes a list of images, one in each line; `read_names` reads it."""
    atomic_write(path, "".join(f"{name}\n" for name in names).encode())


def pair_folders(
    images: Path, image_ending: str, labels: Path, label_ending: str, remedy: str
) -> list[Pair]:
    """Images and labels at the same place below two folders, sorted by path.

    Args:
      images: searched with its subfolders.
      image_ending: of the images' names ('_leftImg8bit.png'); what is before it names an example.
      labels: may be the same folder.
      label_ending: of a label's name in place of the image's.
      remedy: for the message.

    Raises:
      UserError: there is no image.
    """
    paths = sorted(images.rglob(f"*{image_ending}"))
    if not paths:
        raise UserError(f"no *{image_ending} in {str(images)!r}; {remedy}")
    names = [path.name.removesuffix(image_ending) for path in paths]
    return [
        Pair(name, path, labels / path.parent.relative_to(images) / f"{name}{label_ending}")
        for name, path in zip(names, paths, strict=True)
    ]


def choice(value: str | int, options: Collection[str | int], what: str) -> str | int:
    """Returns `value` if it is one of the options.

    Raises:
      UserError: it is none of them.
    """
    if value not in options:
        raise UserError(f"{what} {value!r} is unknown; use one of {', '.join(map(str, options))}")
    return value
