"""Finding one's way in the folders that official archives unpack to."""

from collections.abc import Sequence
from pathlib import Path

from ovseg_jax.errors import UserError


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


def choice(value: str | int, options: Sequence, what: str) -> str | int:
    """Returns `value` if it is one of the options.

    Raises:
      UserError: it is none of them.
    """
    if value not in options:
        raise UserError(f"{what} {value!r} is unknown; use one of {', '.join(map(str, options))}")
    return value
