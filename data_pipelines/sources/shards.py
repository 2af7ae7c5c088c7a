"""Shards: files of thousands of samples each, in which every sample is reached by its number.

Where the samples of a shard lie is read off its headers once and kept as an index, so that order,
resuming and the shares of hosts are those of any other source: functions of (seed, epoch, index).
"""

import functools
import glob
import itertools
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write, cache_folder
from ovseg_jax.training.logs import progress_bar

INDEX = ".ovseg_index.npz"
_FORMAT = 1  # of the index; another one is made anew
_OPEN_SHARDS = 128  # at a time; a data set may have more than a process may open
_NAMED = 3  # damaged shards that a message names


class Spans(NamedTuple):
    """Where the n samples of a shard lie.

    Attributes:
      offsets: int64 [n], first byte of each.
      lengths: int64 [n], bytes of each.
      incomplete: samples that are left out because a part of them is missing.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    incomplete: int


class Record(NamedTuple):
    """The bytes of a sample and where they come from."""

    shard: Path
    number: int  # within its shard
    data: bytes


Scan = Callable[[Path], Spans]  # raises ValueError where a shard is damaged


class Shards:
    """The samples of all shards, one after the other; may be read by several threads at once."""

    def __init__(self, paths: Sequence[Path], scan: Scan):
        """Reads or makes the index.

        Args:
          paths: of the shards, in order.
          scan: reads the spans of a shard off its headers.

        Raises:
          UserError: a shard is missing or damaged.
        """
        spans = index_shards(paths, scan)
        self.paths = tuple(paths)
        self.incomplete = sum(part.incomplete for part in spans)
        self._ends = np.cumsum([len(part.offsets) for part in spans])
        self._offsets = np.concatenate([part.offsets for part in spans])
        self._lengths = np.concatenate([part.lengths for part in spans])
        self._open = functools.lru_cache(_OPEN_SHARDS)(_OpenFile)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._offsets)

    def __getitem__(self, index: int) -> Record:
        """Reads a sample.

        Raises:
          UserError: the shard has become shorter, or cannot be read.
        """
        index = range(len(self))[index]
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path = self.paths[shard]
        number = index - (int(self._ends[shard - 1]) if shard else 0)
        length = int(self._lengths[index])
        try:
            data = self._open(path).read(int(self._offsets[index]), length)
        except OSError as error:
            raise UserError(f"cannot read the shard {str(path)!r} ({error.strerror})") from error
        if len(data) < length:
            raise UserError(
                f"the shard {str(path)!r} ends within its sample {number}; it has changed since "
                "this run began, start it again"
            )
        return Record(path, number, data)


class _OpenFile:
    """A file for positioned reads; closed with the last reference to it."""

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`; fewer at the end of the file only."""
        parts = []
        # The kernel may return less than was asked for.
        while length and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def __del__(self):
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


# --- Which shards ----------------------------------------------------------------------------


def find_shards(root: str, pattern: str) -> list[Path]:
    """Lists shards, in the order of their names.

    Args:
      root: a folder, searched with its subfolders; or files and folders by a pattern with `*`,
        `?` and braces, as in 'data/{cc3m,cc12m}/{00000..00331}.tar'.
      pattern: of the files in a folder, '*.tar'.

    Raises:
      UserError: there are none at one of the places that braces stand for.
    """
    found: list[Path] = []
    for place in expand_braces(root):
        matches = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        if not matches and not glob.has_magic(place):
            raise UserError(f"no shards at {place!r}; check the path")
        # A pattern with ** matches a folder and also what is in it.
        shards = dict.fromkeys(path for match in matches for path in _search(Path(match), pattern))
        if not shards:
            raise UserError(
                f"no {pattern} in {place!r}; give the folder of the shards or a pattern"
            )
        found += shards
    return found


def _search(place: Path, pattern: str) -> list[Path]:
    """A file itself; of a folder the files that match, hidden ones apart."""
    if not place.is_dir():
        return [place]
    return sorted(path for path in place.rglob(pattern) if not path.name.startswith("."))


def expand_braces(pattern: str) -> list[str]:
    """All strings that braces stand for, as in a shell: 'a{b,c}' and '{08..11}'."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        width = len(numbers[1])
        choices = [f"{n:0{width}d}" for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return list(itertools.chain(*(expand_braces(before + choice + after) for choice in choices)))


# --- The index -------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """The spans of a shard, and the size and time of change (ns) by which it is known again."""

    stamp: tuple[int, int]
    spans: Spans


def index_shards(paths: Sequence[Path], scan: Scan) -> list[Spans]:
    """The spans of each shard, read from the index of its folder where that is still true.

    Shards that are new or have changed are scanned, several at once, and the index is written.
    It lies beside the shards, or in the cache folder if nothing may be written there.

    Raises:
      UserError: a shard is missing or damaged.
    """
    stamps = {path: _stamp(path) for path in paths}
    known = {
        folder / name: entry
        for folder in {path.parent for path in paths}
        for name, entry in _read_index(folder, stamps).items()
    }
    changed = [path for path in stamps if path not in known or known[path].stamp != stamps[path]]
    try:
        damages = _scan_all(changed, scan, stamps, known)
    finally:  # what an interrupted scan has found serves the next
        for folder in {path.parent for path in changed}:
            _write_index(folder, {p.name: e for p, e in known.items() if p.parent == folder})
    if damages:
        more = f" and {len(damages) - _NAMED} more" if len(damages) > _NAMED else ""
        raise UserError(
            f"damaged shards: {', '.join(damages[:_NAMED])}{more}; fetch them again, or move them "
            "out of the folder"
        )
    return [known[path].spans for path in paths]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot open the shard {str(path)!r} ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


def _scan_all(
    paths: Sequence[Path],
    scan: Scan,
    stamps: Mapping[Path, tuple[int, int]],
    known: dict[Path, _Entry],
) -> list[str]:
    """Scans shards and adds them to `known`; what is wrong with the damaged ones."""
    if not paths:
        return []

    def attempt(path: Path) -> Spans | str:
        try:
            return scan(path)
        except (OSError, ValueError) as error:
            return f"{str(path)!r} ({error})"

    damages = []
    # Scanning waits for the disk, and far longer for one on the network, more than it computes.
    with (
        progress_bar(len(paths), label="index of shards", unit="shard") as bar,
        ThreadPoolExecutor() as pool,
    ):
        for path, spans in zip(paths, pool.map(attempt, paths), strict=True):
            if isinstance(spans, str):
                damages.append(spans)
            else:
                known[path] = _Entry(stamps[path], spans)
            bar.update()
    return damages


def _index_files(folder: Path) -> tuple[Path, Path]:
    """Where the index of a folder may lie."""
    name = sha256(str(folder.resolve()).encode()).hexdigest()
    return folder / INDEX, cache_folder("shards") / f"{name}.npz"


def _read_index(folder: Path, stamps: Mapping[Path, tuple[int, int]]) -> dict[str, _Entry]:
    """The entries of a folder's index, by the name of the shard; none where it has no index.

    Both places count, for who may write beside the shards changes: an entry with the shard's
    stamp is preferred, then one that lies beside them.
    """
    entries: dict[str, _Entry] = {}
    for path in _index_files(folder):
        try:
            with np.load(path, allow_pickle=False) as file:
                found = _entries(file) if file["format"] == _FORMAT else {}
        # Missing or damaged: it is made anew.
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
        true = {name: e for name, e in found.items() if stamps.get(folder / name) == e.stamp}
        entries = found | entries | true
    return entries


def _entries(file: Mapping[str, np.ndarray]) -> dict[str, _Entry]:
    splits = np.cumsum(file["counts"])[:-1]
    spans = map(
        Spans,
        np.split(file["offsets"], splits),
        np.split(file["lengths"], splits),
        file["incomplete"].tolist(),
    )
    stamps = zip(file["sizes"].tolist(), file["times"].tolist(), strict=True)
    return dict(zip(file["names"].tolist(), map(_Entry, stamps, spans), strict=True))


def _write_index(folder: Path, entries: Mapping[str, _Entry]) -> None:
    if not entries:
        return
    sizes, times = zip(*(entry.stamp for entry in entries.values()), strict=True)
    spans = [entry.spans for entry in entries.values()]
    arrays = {
        "format": np.array(_FORMAT),
        "names": np.array([*entries]),
        "sizes": np.array(sizes, np.int64),
        "times": np.array(times, np.int64),
        "counts": np.array([len(part.offsets) for part in spans]),
        "incomplete": np.array([part.incomplete for part in spans]),
        "offsets": np.concatenate([part.offsets for part in spans]),
        "lengths": np.concatenate([part.lengths for part in spans]),
    }
    for path in _index_files(folder):
        try:
            atomic_write(path, lambda file: np.savez(file, **arrays))
            return
        except UserError:  # neither place may be written: the next run scans again
            continue
