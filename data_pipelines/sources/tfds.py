"""Data sets that `tensorflow_datasets` has prepared on disk; TensorFlow itself is not needed."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.sources import ade20k, cityscapes, coco_stuff
from data_pipelines.sources.labelled import LabelTable, decode_image, decode_label
from data_pipelines.sources.layouts import choice
from data_pipelines.sources.shards import Shards
from data_pipelines.sources.tfrecords import scan_tfrecord
from ovseg_jax.errors import UserError

KEYS = ("image", "label", "caption", "captions", "name")


class Preset(NamedTuple):
    """One of our data sets as tfds holds it.

    Attributes:
      dataset: its name and config there.
      features: of each key of an example.
      table: name of the table of its labels, '' without labels.
    """

    dataset: str
    features: Mapping[str, str]
    table: str = ""


PRESETS = {
    "coco_captions": Preset(
        "coco_captions/2014",
        {"image": "image", "captions": "captions/text", "name": "image/filename"},
    ),
    "cityscapes": Preset(
        "cityscapes/semantic_segmentation",
        {"image": "image_left", "label": "segmentation_label", "name": "image_id"},
        "cityscapes",
    ),
    "scene_parse150": Preset("scene_parse150", {"image": "image", "label": "annotation"}, "ade20k"),
}
TABLES: dict[str, Callable[[], LabelTable]] = {
    "ade20k": ade20k.label_table,
    "cityscapes": cityscapes.label_table,
    "coco_stuff": lambda: coco_stuff.label_table("all"),
}


class TfdsSource:
    """Examples of a prepared data set, in either of its formats, array_record and tfrecord.

        root/scene_parse150/1.0.0/dataset_info.json, features.json, …

    Examples have the keys that `features` lists: `image` uint8 [H, W, 3] RGB; `label` uint8 or
    int32 [H, W], the classes of our own source of the same pictures; `captions`, a tuple of str,
    and `caption`, the first of them; and always `name` (the number, unless a feature holds it) and
    `path`, the data set's folder with the number.
    """

    def __init__(
        self,
        dataset: str,
        root: str,
        split: str = "train",
        features: Mapping[str, str] | None = None,
        labels: str = "",
    ):
        """Opens a split.

        Args:
          dataset: one of `PRESETS`; or the name of a data set in tfds, where it has any with its
            config, and with its version if it should not be the newest ('my_set/full/1.0.0').
          root: tfds's data_dir.
          split: of tfds: 'train', 'validation', 'train[:10%]', …
          features: the feature of each key: image, label, caption or captions, name; 'a/b' stands
            for b in a. None with a preset.
          labels: whose label values are stored: 'ade20k', 'cityscapes' or 'coco_stuff'; '' if
            they are the classes themselves, and with a preset.

        Raises:
          UserError: tfds or the prepared data set is missing; an unknown split, key or table;
            features or labels besides a preset.
        """
        if dataset in PRESETS and (features or labels):
            raise UserError(
                f"{dataset!r} brings its own features and labels; leave them out, or give the data "
                f"set as {PRESETS[dataset].dataset + '/<version>'!r}"
            )
        preset = PRESETS.get(dataset, Preset(dataset, features or {}, labels))
        for key in preset.features:
            choice(key, KEYS, "the key")
        if "image" not in preset.features:
            raise UserError(
                f"features of {dataset!r} names no image; give features={{'image': …}}, or one of "
                f"{', '.join(PRESETS)} as the data set"
            )
        if preset.table:
            choice(preset.table, TABLES, "the table of labels")
        self._folder = find_prepared(Path(root), preset.dataset)
        self._records = open_records(self._folder, split)
        self._features = dict(preset.features)
        self._table = TABLES[preset.table]() if preset.table else None

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        """Reads one example.

        Raises:
          UserError: a missing feature, an unreadable picture or label, a label value that has no
            class.
        """
        record = self._records[index]
        path = f"{self._folder}/{index}"
        found = {key: _feature(record, name, path) for key, name in self._features.items()}
        example = {"name": str(index), "path": path}
        if "name" in found:
            name = found["name"]
            example["name"] = name.decode() if isinstance(name, bytes) else str(name)
        example["image"] = decode_image(np.frombuffer(found["image"], np.uint8), path)
        if "label" in found:
            label = decode_label(np.frombuffer(found["label"], np.uint8), path)
            example["label"] = self._table(label, path) if self._table else label
        texts = found.get("captions", [found["caption"]] if "caption" in found else [])
        captions = tuple(text.decode("utf-8", errors="replace") for text in texts)
        return example | ({"caption": captions[0], "captions": captions} if captions else {})


def _feature(record: Mapping[str, Any], name: str, path: str) -> Any:
    """A feature by its name; one within another by both, with a slash between."""
    outer, _, inner = name.partition("/")
    try:
        return record[name] if name in record else record[outer][inner]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the example {path!r} has no feature {name!r}; it has {', '.join(record)}"
        ) from error


def find_prepared(root: Path, dataset: str) -> Path:
    """The folder of a prepared data set, of its newest version unless one is given.

    Raises:
      UserError: there is none.
    """
    folder = root / dataset
    versions = [
        path
        for path in (folder, *folder.glob("*"))
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "features.json").is_file()
    ]
    if not versions:
        raise UserError(
            f"no prepared data set {dataset!r} in {str(root)!r}; prepare it with: tfds build "
            f"{dataset} --data_dir {root}"
        )
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def open_records(folder: Path, split: str) -> Sequence[Mapping[str, Any]]:
    """The examples of a split as mappings of features, pictures still encoded.

    Raises:
      UserError: tfds is missing, or there is no such split.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            'data sets of tfds need tensorflow_datasets; install it with pip install ".[data]"'
        ) from error
    builder = tfds.builder_from_directory(str(folder))
    try:
        files = builder.info.splits[split].file_instructions
    except ValueError as error:
        raise UserError(f"the data set {str(folder)!r}: {error}") from error
    decoders = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    if builder.info.file_format.value != "tfrecord":
        return builder.as_data_source(split, decoders=decoders)

    def decode(data: bytes) -> Mapping[str, Any]:
        return builder.info.features.deserialize_example_np(data, decoders=decoders)

    return _Records(files, decode)


class _Records:
    """The examples of TFRecord files, which tfds itself reads in their order only."""

    def __init__(self, files: Sequence, decode: Callable[[bytes], Mapping[str, Any]]):
        """Takes tfds's instructions: from each file, `take` examples after `skip` others."""
        self._shards = Shards([Path(file.filename) for file in files], scan_tfrecord)
        firsts = np.cumsum([0, *(file.examples_in_shard for file in files)])
        ranges = (
            np.arange(first + file.skip, first + file.skip + file.take)
            for first, file in zip(firsts, files, strict=False)
        )
        self._numbers = np.concatenate([*ranges])
        self._decode = decode

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._decode(self._shards[int(self._numbers[index])].data)
