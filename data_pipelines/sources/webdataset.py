"""Pictures with captions in tar shards, the format of WebDataset, as img2dataset writes it.

CC3M, CC12M, YFCC14M and RedCaps12M are published as lists of addresses; img2dataset fetches the
pictures and packs them like this.
"""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np

from data_pipelines.sources.labelled import decode_image
from data_pipelines.sources.shards import Record, Shards, Spans, find_shards
from ovseg_jax.errors import UserError

PICTURES = ("jpg", "jpeg", "png", "webp")
CAPTIONS = ("txt", "json")  # a text counts more than the `caption` of a JSON object
_BLOCK = 512  # bytes; a tar file is made of such


class WebDatasetSource:
    """Examples of uncompressed tar files.

        root/00000.tar    000000000.jpg, 000000000.txt, 000000000.json, 000000001.jpg, …
        root/00001.tar    000010000.jpg, …

    Members that follow one another and have the same name up to the first dot are one sample: a
    picture (.jpg, .jpeg, .png, .webp) and its caption (.txt, or `caption` in .json). Samples that
    lack either, as those do that could not be fetched, are left out; `incomplete` counts them.

    Examples have `image` uint8 [H, W, 3] RGB; `caption`, which may be ''; `name`, the sample's;
    and `path`, that of the shard with the picture's name in it.
    """

    def __init__(self, root: str):
        """Reads the index of the shards; makes it first where there is none (see `shards`).

        Args:
          root: a folder, searched with its subfolders, or a pattern with `*` and braces, as in
            'data/{cc3m,cc12m}/{00000..00331}.tar'.

        Raises:
          UserError: no shards, or a damaged one.
        """
        self._shards = Shards(find_shards(root, "*.tar"), scan_tar)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._shards)

    @property
    def incomplete(self) -> int:
        """Samples without picture or caption, which are left out."""
        return self._shards.incomplete

    def __getitem__(self, index: int) -> dict:
        """Reads one sample.

        Raises:
          UserError: an unreadable picture or JSON object.
        """
        record = self._shards[index]
        members = {}
        with tarfile.open(fileobj=io.BytesIO(record.data), mode="r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                name, ending = split_name(member.name)
                members[ending] = member.name, tar.extractfile(member).read()
        picture, data = next(members[ending] for ending in PICTURES if ending in members)
        path = record.shard / picture
        remedy = f"remove it with: tar --delete -f {record.shard} {picture}"
        return {
            "image": decode_image(np.frombuffer(data, np.uint8), path, remedy=remedy),
            "caption": _caption(members, record),
            "name": name,
            "path": str(path),
        }


def split_name(name: str) -> tuple[str, str]:
    """A member's name, parted at the first dot after its folders; the ending in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def _caption(members: dict[str, tuple[str, bytes]], record: Record) -> str:
    if "txt" in members:
        return members["txt"][1].decode("utf-8", errors="replace").strip()
    name, data = members["json"]
    try:
        return (json.loads(data)["caption"] or "").strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(record.shard / name)!r} has no text as its caption; write the shards with "
            "captions, or remove the sample with tar --delete"
        ) from error


def scan_tar(path: Path) -> Spans:
    """Where the samples of a tar file lie, headers included.

    Raises:
      ValueError: the file is no uncompressed tar file, or ends too early.
    """
    spans, incomplete = [], 0
    key, endings, start, end = "", set(), 0, 0

    def close() -> None:
        nonlocal incomplete
        if not endings.isdisjoint(PICTURES) and not endings.isdisjoint(CAPTIONS):
            spans.append((start, end - start))
        elif endings:
            incomplete += 1

    try:
        # Unbuffered: of the bytes between the headers none are needed.
        with open(path, "rb", buffering=0) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # a shard has tens of thousands
                name, ending = split_name(member.name)
                if name != key or not member.isfile():
                    close()
                    key, endings, start = name, set(), member.offset
                if member.isfile():
                    endings.add(ending)
                end = tar.offset
            close()
            _check_end(file.fileno(), tar.offset)
    except tarfile.TarError as error:
        raise ValueError(f"no uncompressed tar file, or it ends too early: {error}") from error
    table = np.array(spans, np.int64).reshape(-1, 2)
    return Spans(table[:, 0], table[:, 1], incomplete)


def _check_end(descriptor: int, offset: int) -> None:
    """Raises unless an empty block stands where the members end: `tarfile` does not mind."""
    if os.pread(descriptor, _BLOCK, offset) != bytes(_BLOCK):
        raise ValueError(f"it breaks off at byte {offset}")
