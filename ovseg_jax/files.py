"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ovseg_jax.errors import UserError

Content = bytes | Callable[[BinaryIO], None]

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder, then run again",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file is larger than this file system allows; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EEXIST: "a file is in the way of the folder; choose another folder",
    errno.ENOTDIR: "a file is in the way of the folder; choose another folder",
    errno.EISDIR: "a folder is in the way; choose another name",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
}


def cache_folder(kind: str) -> Path:
    """Where what can be made anew is kept; may be deleted, and moved with XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ovseg_jax" / kind


@contextlib.contextmanager
def saving(path: str | os.PathLike) -> Iterator[None]:
    """Turns the operating system's refusal to write `path` into a UserError.

    For writers that open files themselves (Orbax); errors that are not about the disk or its
    permissions pass through unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise UserError(f"cannot write {path}: {_REMEDIES[error.errno]}.") from error


def atomic_write(path: str | os.PathLike, content: Content) -> None:
    """Writes one file so that it is either complete or as it was before.

    Args:
      path: the file; missing folders above it are made.
      content: the bytes, or a function that writes them to an open binary file.

    Raises:
      UserError: the disk is full or the place cannot be written; nothing is left behind.
    """
    atomic_write_all({path: content})


def atomic_write_all(contents: Mapping[str | os.PathLike, Content]) -> None:
    """Writes files that belong together: none gets its name before all are on the disk.

    Raises:
      UserError: as `atomic_write`; a disk that fills up leaves no file of the group behind or
        changed. Only a rename that is refused (a folder in the way) can come after others.
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            path = Path(path)
            # Beside the target, because a rename is atomic only within one file system.
            # A random name, because processes of several hosts may write the same file at once.
            part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.part")
            with saving(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary[path] = part
                _write_through(part, content)
        for path, part in temporary.items():
            with saving(path):
                os.replace(part, path)
    finally:
        for part in temporary.values():
            part.unlink(missing_ok=True)


def _write_through(path: Path, content: Content) -> None:
    with open(path, "wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        # Without it a full disk may show only after the rename (delayed allocation).
        os.fsync(file.fileno())
