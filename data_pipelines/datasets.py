"""The data sets that are known by name: where they come from, their splits and their words."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.sources import create_source
from data_pipelines.sources.class_masks import LISTS
from ovseg_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a data set is evaluated by.

    Attributes:
      title: in words.
      source: name in `data_pipelines.sources.SOURCES` and arguments, root and split apart.
      label_space: the packaged vocabulary, in the order of the source's classes.
      folder: usual place below ``data/``.
      splits: published number of images of each.
      preparation: module of `data_pipelines.prepare` that makes and imitates the files.
      episodes: whether an example asks for one class only, as few-shot protocols do.
      lists: protocols that go through lists of their own, an argument of the source.
      evaluated: the split that published figures are of.
    """

    title: str
    source: Mapping
    label_space: str
    folder: str
    splits: Mapping[str, int]
    preparation: str
    episodes: bool = False
    lists: tuple[str, ...] = ()
    evaluated: str = "val"

    def open(self, root: str, split: str):
        """The examples of a split; a `UserError` where files are missing."""
        if split not in self.splits:
            raise UserError(f"{self.title} has no split {split!r}; it has {', '.join(self.splits)}")
        return create_source({**self.source, "root": root, "split": split})


_VOC = dict(
    folder="voc2012", splits={"train": 1464, "trainaug": 10_582, "val": 1449}, preparation="voc"
)
_COCO_STUFF = dict(
    folder="coco_stuff164k", splits={"train": 118_287, "val": 5000}, preparation="coco_stuff"
)
_CONTEXT = dict(
    folder="pascal_context", splits={"train": 4998, "val": 5105}, preparation="pascal_context"
)

# Pairs of a picture and a class, by fold: for training and, by Fusioner's protocol, evaluation.
_PASCAL5I = ((12_667, 346), (11_736, 451), (9023, 725), (13_227, 346))
_COCO20I = ((95_476, 1000), (133_927, 1000), (141_054, 1000), (141_016, 1000))


def _folds(
    family: str, title: str, folder: str, counts: Sequence[tuple[int, int]]
) -> dict[str, Dataset]:
    """A data set for each fold of held-out classes."""
    return {
        f"{family}_{fold}": Dataset(
            f"{title}, fold {fold}",
            dict(name=family, fold=fold),
            label_space=family,
            folder=folder,
            splits={"train": train, "val": val},
            preparation=family,
            episodes=True,
            lists=LISTS,
        )
        for fold, (train, val) in enumerate(counts)
    }


DATASETS = {
    "voc20": Dataset(
        "Pascal VOC 2012, background ignored",
        dict(name="voc", background="ignored"),
        "voc20",
        **_VOC,
    ),
    "voc21": Dataset(
        "Pascal VOC 2012 with background", dict(name="voc", background="first"), "voc21", **_VOC
    ),
    "pas20b": Dataset(
        "Pascal VOC 2012, background of Context's names",
        dict(name="voc", background="last"),
        "pas20b",
        **_VOC,
    ),
    "voc_15_5": Dataset(
        "Pascal VOC 2012, 15 seen and 5 unseen classes",
        dict(name="voc", background="ignored"),
        "voc_zegclip",
        **_VOC,
    ),
    "coco_stuff": Dataset(
        "COCO-Stuff 164k", dict(name="coco_stuff"), "coco_stuff171", **_COCO_STUFF
    ),
    "coco_stuff_156_15": Dataset(
        "COCO-Stuff 164k, 156 seen and 15 unseen classes",
        dict(name="coco_stuff"),
        "coco_stuff_zegclip",
        **_COCO_STUFF,
    ),
    "coco_stuff_156_15_zsseg": Dataset(
        "COCO-Stuff 164k, 156 seen and 15 unseen classes as zsseg lists them",
        dict(name="coco_stuff"),
        "coco_stuff_171_zsseg",
        **_COCO_STUFF,
    ),
    "coco_object": Dataset(
        "COCO-Object: the things of COCO-Stuff 164k, and background",
        dict(name="coco_stuff", classes="things"),
        "coco_object81",
        **_COCO_STUFF,
    ),
    "context59": Dataset(
        "Pascal Context, 59 classes, background ignored",
        dict(name="pascal_context", classes=59),
        "pascal_context59",
        **_CONTEXT,
    ),
    "context60": Dataset(
        "Pascal Context, 59 classes and background",
        dict(name="pascal_context", classes=60),
        "pascal_context60",
        **_CONTEXT,
    ),
    "context459": Dataset(
        "Pascal Context, all 459 classes",
        dict(name="pascal_context", classes=459),
        "pascal_context459",
        **_CONTEXT,
    ),
    "context_50_10": Dataset(
        "Pascal Context, 50 seen classes (background among them) and 10 unseen",
        dict(name="pascal_context", classes=60),
        "context_50_10",
        **_CONTEXT,
    ),
    "ade150": Dataset(
        "ADE20K, 150 classes",
        dict(name="ade20k"),
        "ade150",
        folder="ade20k",
        splits={"train": 20_210, "val": 2000},
        preparation="ade20k",
    ),
    "ade847": Dataset(
        "ADE20K, full set of 847 classes",
        dict(name="ade20k_full"),
        "ade847",
        folder="ade20k_full",
        splits={"train": 25_574, "val": 2000},
        preparation="ade20k_full",
    ),
    "cityscapes": Dataset(
        "Cityscapes, 19 classes",
        dict(name="cityscapes"),
        "cityscapes19",
        folder="cityscapes",
        splits={"train": 2975, "val": 500},
        preparation="cityscapes",
    ),
    **_folds("pascal5i", "PASCAL-5i", "voc2012", _PASCAL5I),
    **_folds("coco20i", "COCO-20i", "coco2014", _COCO20I),
    "fss1000": Dataset(
        "FSS-1000",
        dict(name="fss1000"),
        "fss1000",
        folder="fss1000",
        splits={"train": 5200, "val": 2400, "test": 2400},
        preparation="fss1000",
        episodes=True,
        evaluated="test",
    ),
}


def find_dataset(name: str) -> Dataset:
    """The data set of that name.

    Raises:
      UserError: there is none; names the nearest.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; {nearest(name, DATASETS)}")
    return DATASETS[name]


def prepare(name: str, output: Path, source: Path | None, twin: int | None) -> str:
    """Prepares a family of data sets, or draws its twin.

    Args:
      name: of the family, `Dataset.preparation`, or of one of its data sets.
      output: folder to write.
      source: of the archive; None with `twin`.
      twin: examples for each split; None with `source`.

    Returns:
      What was made.

    Raises:
      UserError: an unknown name, a missing or damaged archive, nothing to prepare.
    """
    families = dict.fromkeys(dataset.preparation for dataset in DATASETS.values())
    family = DATASETS[name].preparation if name in DATASETS else name
    if family not in families:
        raise UserError(f"unknown data set {name!r}; {nearest(name, [*families, *DATASETS])}")
    module = importlib.import_module(f"data_pipelines.prepare.{family}")
    if twin is not None:
        if twin < 1:
            raise UserError(f"a twin of {twin} examples is none; give 1 or more")
        return module.twin(output, twin)
    if not hasattr(module, "prepare"):
        raise UserError(
            f"{family} needs no preparation: its archives are read as they unpack, see "
            f"data_pipelines/sources/{family}.py"
        )
    return module.prepare(source, output)
