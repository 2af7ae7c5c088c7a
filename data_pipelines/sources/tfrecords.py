"""Pictures with captions in TFRecord files of `tf.train.Example`s.

Reading them needs TensorFlow, for the messages only; where they lie is read without.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.sources.labelled import decode_image
from data_pipelines.sources.shards import Record, Shards, Spans, find_shards
from ovseg_jax.errors import UserError

PATTERN = "*.tfrecord*"
_HEAD = struct.Struct("<QI")  # length of the data and its checksum; they precede the data
_TAIL = 4  # bytes of the checksum that follows the data


class TFRecordSource:
    """Examples of uncompressed TFRecord files.

        root/00000.tfrecord    or root/name-00000-of-00512.tfrecord, …

    Examples have `image` uint8 [H, W, 3] RGB, decoded from the bytes of a picture file;
    `captions`, a tuple of str; `caption`, the first of them; `name`, the shard's with the number
    of the record in it; and `path`, the same with folders.
    """

    def __init__(self, root: str, image: str = "image", caption: str = "caption"):
        """Reads the index of the shards; makes it first where there is none (see `shards`).

        Args:
          root: a folder, searched with its subfolders, or a pattern with `*` and braces.
          image: the feature that holds an encoded picture.
          caption: the feature that holds a text, or several.

        Raises:
          UserError: no shards, a damaged one, or TensorFlow is missing.
        """
        self._parse = _parser()
        self._shards = Shards(find_shards(root, PATTERN), scan_tfrecord)
        self._image, self._caption = image, caption

    def __len__(self) -> int:
        """Number of records."""
        return len(self._shards)

    def __getitem__(self, index: int) -> dict:
        """Reads one record.

        Raises:
          UserError: an unreadable picture, a record that is no example or lacks a feature.
        """
        record = self._shards[index]
        path = f"{record.shard}/{record.number}"
        features = self._features(record, path)
        captions = tuple(text.decode("utf-8", errors="replace") for text in features[self._caption])
        return {
            "image": decode_image(np.frombuffer(features[self._image][0], np.uint8), path),
            "caption": captions[0],
            "captions": captions,
            "name": f"{record.shard.name}/{record.number}",
            "path": path,
        }

    def _features(self, record: Record, path: str) -> dict[str, list[bytes]]:
        """The values of both features."""
        try:
            found = self._parse(record.data)
        except ValueError as error:
            raise UserError(f"the record {path!r} is no tf.train.Example; write it anew") from error
        values = {name: list(found[name].bytes_list.value) for name in found}
        for name in (self._image, self._caption):
            if not values.get(name):
                raise UserError(
                    f"the record {path!r} has no bytes as its feature {name!r}, only "
                    f"{', '.join(sorted(k for k in values if values[k]))}; name the features by "
                    "image= and caption= of the source"
                )
        return values


def _parser() -> Callable[[bytes], Mapping[str, Any]]:
    """What makes features of a record; it raises ValueError where the record is none."""
    try:
        import tensorflow as tf
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UserError(
            'TFRecords are read with TensorFlow; install it with pip install ".[data]"'
        ) from error

    def parse(data: bytes) -> Mapping[str, Any]:
        try:
            return tf.train.Example.FromString(data).features.feature
        except DecodeError as error:
            raise ValueError(str(error)) from error

    return parse


def scan_tfrecord(path: Path) -> Spans:
    """Where the data of each record lie.

    Raises:
      ValueError: the lengths do not add up to the size of the file.
    """
    spans = []
    size, offset = path.stat().st_size, 0
    with open(path, "rb", buffering=0) as file:
        while offset < size:
            file.seek(offset)
            head = file.read(_HEAD.size)
            length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else size
            spans.append((offset + _HEAD.size, length))
            offset += _HEAD.size + length + _TAIL
    if offset != size:
        raise ValueError(f"its record {len(spans) - 1} breaks off, or it is compressed")
    table = np.array(spans, np.int64).reshape(-1, 2)
    return Spans(table[:, 0], table[:, 1], incomplete=0)
