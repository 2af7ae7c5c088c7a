"""Every class of every picture, one at a time: what zsseg learns its prompts from."""

import json
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_pipelines.sources.class_masks import ClassMasks, ClassPairs
from data_pipelines.sources.labelled import LabelledImages
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.text.label_space import LabelSpace, load_label_space
from ovseg_jax.training.logs import progress_bar

_LIST = "{}_label_count.json"  # beside a folder of labels
_SEED = 0  # of the choice of examples, as published


class ClassRegionsSource(ClassMasks):
    """(picture, class) pairs of a data set with labels.

    Which classes a picture has is read off its label once and kept beside the folder of labels, in
    ``<folder>_label_count.json``: {"000000000139.png": [0, 61, …], …}, the stored values.
    """

    def __init__(
        self, dataset: str, root: str, split: str, subset: str = "all", per_class: int = 0
    ):
        """Lists the pairs, by picture and class.

        Args:
          dataset: its name in `data_pipelines.datasets`.
          root: where it lies.
          split: of it.
          subset: 'all', 'seen' or 'unseen' classes.
          per_class: how many pairs of a class are drawn, with repetition; classes with fewer keep
            each of them once. 0 = all pairs.

        Raises:
          UserError: an unknown data set or split, one without label images, missing files, no pair.
        """
        source, space, pairs = open_pairs(dataset, root, split, subset)
        if per_class:
            pairs = draw_per_class(pairs, per_class)
        files = [
            source.pairs[image]._replace(name=f"{source.pairs[image].name}__{class_id}")
            for image, class_id in zip(*pairs, strict=True)
        ]
        super().__init__(
            files, pairs.classes, pairs.classes, source.table, space.subset(subset), source.decode
        )


def open_pairs(
    dataset: str, root: str, split: str, subset: str
) -> tuple[LabelledImages, LabelSpace, ClassPairs]:
    """The pictures of a data set whose labels show all its classes, these, and who has which.

    Raises:
      UserError: an unknown data set or split, one without such labels, missing files, no picture of
        the classes of the subset.
    """
    from data_pipelines.datasets import LabelledDataset, find_dataset  # know the sources by name

    found = find_dataset(dataset)
    if not isinstance(found, LabelledDataset) or found.episodes:
        raise UserError(
            f"{found.title} has no labels of all classes; give the source another dataset"
        )
    source, space = found.open(root, split), load_label_space(found.label_space)
    pairs = class_pairs(source, space.subset(subset))
    if not len(pairs.images):
        raise UserError(f"the split {split} of {dataset} has no picture of these classes")
    return source, space, pairs


def class_pairs(source: LabelledImages, classes: Sequence[int]) -> ClassPairs:
    """Numbers of the pictures, each with the classes that it has, ascending."""
    images, found = [], []
    for index, values in enumerate(stored_values(source)):
        present = source.table(np.asarray(values, np.int32), source.pairs[index].label)
        for class_id in np.intersect1d(present, classes):
            images.append(index)
            found.append(class_id)
    return ClassPairs(np.asarray(images, np.int64), np.asarray(found, np.int32))


def draw_per_class(pairs: ClassPairs, count: int) -> ClassPairs:
    """Draws pairs of each class with repetition; of a class with fewer all are kept.

    Classes come in the order in which they first occur, as in the reference, whose generator this
    is.
    """
    generator = np.random.default_rng(_SEED)
    chosen = []
    for class_id in dict.fromkeys(pairs.classes.tolist()):
        of_class = np.flatnonzero(pairs.classes == class_id)
        if len(of_class) >= count:
            of_class = of_class[generator.choice(len(of_class), count)]
        chosen.append(of_class)
    return pairs.take(np.concatenate(chosen) if chosen else np.zeros(0, np.int64))


def stored_values(source: LabelledImages) -> list[list[int]]:
    """The values in each label, ascending; those of known labels come from the lists."""
    folders = defaultdict(list)
    for index, pair in enumerate(source.pairs):
        folders[pair.label.parent].append(index)
    values: list[list[int]] = [[]] * len(source.pairs)
    for folder, indices in folders.items():
        path = folder.with_name(_LIST.format(folder.name))
        known = _read_list(path)
        missing = [index for index in indices if source.pairs[index].label.name not in known]
        if missing:
            labels = [source.pairs[index].label for index in missing]
            found = _read_values(source, labels)
            known |= dict(zip((label.name for label in labels), found, strict=True))
            _write_list(path, known)
        for index in indices:
            values[index] = known[source.pairs[index].label.name]
    return values


def _read_values(source: LabelledImages, labels: Sequence[Path]) -> list[list[int]]:
    def values(label: Path) -> list[int]:
        return np.flatnonzero(np.bincount(source.decode(label).ravel())).tolist()

    with (
        progress_bar(len(labels), label="classes", unit="label") as bar,
        ThreadPoolExecutor() as pool,
    ):
        found = []
        for listed in pool.map(values, labels):
            found.append(listed)
            bar.update()
    return found


def _read_list(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"the list {str(path)!r} is damaged; delete it to have it made anew"
        ) from error


def _write_list(path: Path, known: dict[str, list[int]]) -> None:
    try:
        atomic_write(path, json.dumps(known).encode() + b"\n")
    except UserError:
        return  # no room to remember; the labels are read anew the next time
