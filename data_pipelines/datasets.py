"""The data sets that are known by name: where they come from, their splits and their words."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.sources import create_source
from data_pipelines.sources.class_masks import LISTS
from ovseg_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Pictures, and where they come from.

    Attributes:
      title: in words.
      source: name in `data_pipelines.sources.SOURCES` and arguments, root and split apart.
      folder: usual place below ``data/``.
      splits: published number of images of each. One alone is all that lies in the folder, and its
        source takes no split.
      preparation: module of `data_pipelines.prepare` that makes and imitates the files.
    """

    title: str
    source: Mapping
    folder: str
    splits: Mapping[str, int]
    preparation: str

    def open(self, root: str, split: str):
        """The examples of a split; a `UserError` where files are missing."""
        if split not in self.splits:
            raise UserError(f"{self.title} has no split {split!r}; it has {', '.join(self.splits)}")
        choice = {"split": split} if len(self.splits) > 1 else {}
        return create_source({**self.source, "root": root, **choice})


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionDataset(Dataset):
    """Pictures with captions, to train on; they have no classes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledDataset(Dataset):
    """Pictures with labels, and what they are evaluated by.

    Attributes:
      label_space: the packaged vocabulary, in the order of the source's classes.
      episodes: whether an example asks for one class only, as few-shot protocols do.
      lists: protocols that go through lists of their own, an argument of the source.
      evaluated: the split that published figures are of.
    """

    label_space: str
    episodes: bool = False
    lists: tuple[str, ...] = ()
    evaluated: str = "val"


_VOC = dict(
    folder="voc2012", splits={"train": 1464, "trainaug": 10_582, "val": 1449}, preparation="voc"
)
_COCO_STUFF = dict(
    folder="coco_stuff164k", splits={"train": 118_287, "val": 5000}, preparation="coco_stuff"
)
_CONTEXT = dict(
    folder="pascal_context", splits={"train": 4998, "val": 5105}, preparation="pascal_context"
)

# Pictures that GroupViT's authors could fetch; others will find fewer.
_FETCHED = {
    "cc3m": ("Conceptual Captions, 3 million", 2_891_445),
    "cc12m": ("Conceptual 12M", 11_156_203),
    "yfcc14m": ("YFCC100M, 14 million with English texts", 14_615_499),
    "redcaps12m": ("RedCaps, 12 million", 11_866_987),
}

# Pairs of a picture and a class, by fold: for training and, by Fusioner's protocol, evaluation.
_PASCAL5I = ((12_667, 346), (11_736, 451), (9023, 725), (13_227, 346))
_COCO20I = ((95_476, 1000), (133_927, 1000), (141_054, 1000), (141_016, 1000))


def _folds(
    family: str, title: str, folder: str, counts: Sequence[tuple[int, int]]
) -> dict[str, LabelledDataset]:
    """A data set for each fold of held-out classes."""
    return {
        f"{family}_{fold}": LabelledDataset(
            title=f"{title}, fold {fold}",
            source=dict(name=family, fold=fold),
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
    "voc20": LabelledDataset(
        title="Pascal VOC 2012, background ignored",
        source=dict(name="voc", background="ignored"),
        label_space="voc20",
        **_VOC,
    ),
    "voc21": LabelledDataset(
        title="Pascal VOC 2012 with background",
        source=dict(name="voc", background="first"),
        label_space="voc21",
        **_VOC,
    ),
    "voc20_catseg": LabelledDataset(
        title="Pascal VOC 2012, background ignored, by VOC's own names",
        source=dict(name="voc", background="ignored"),
        label_space="voc20_catseg",
        **_VOC,
    ),
    "pas20b": LabelledDataset(
        title="Pascal VOC 2012, background of Context's names",
        source=dict(name="voc", background="last"),
        label_space="pas20b",
        **_VOC,
    ),
    "voc_15_5": LabelledDataset(
        title="Pascal VOC 2012, 15 seen and 5 unseen classes",
        source=dict(name="voc", background="ignored"),
        label_space="voc_zegclip",
        **_VOC,
    ),
    "voc_15_5_zsseg": LabelledDataset(
        title="Pascal VOC 2012, 15 seen and 5 unseen classes as zsseg lists them",
        source=dict(name="voc", background="ignored"),
        label_space="voc_15_5_zsseg",
        **_VOC,
    ),
    "coco_stuff": LabelledDataset(
        title="COCO-Stuff 164k",
        source=dict(name="coco_stuff"),
        label_space="coco_stuff171",
        **_COCO_STUFF,
    ),
    "coco_stuff_156_15": LabelledDataset(
        title="COCO-Stuff 164k, 156 seen and 15 unseen classes",
        source=dict(name="coco_stuff"),
        label_space="coco_stuff_zegclip",
        **_COCO_STUFF,
    ),
    "coco_stuff_156_15_zsseg": LabelledDataset(
        title="COCO-Stuff 164k, 156 seen and 15 unseen classes as zsseg lists them",
        source=dict(name="coco_stuff"),
        label_space="coco_stuff_171_zsseg",
        **_COCO_STUFF,
    ),
    "coco_object": LabelledDataset(
        title="COCO-Object: the things of COCO-Stuff 164k, and background",
        source=dict(name="coco_stuff", classes="things"),
        label_space="coco_object81",
        **_COCO_STUFF,
    ),
    "context59": LabelledDataset(
        title="Pascal Context, 59 classes, background ignored",
        source=dict(name="pascal_context", classes=59),
        label_space="pascal_context59",
        **_CONTEXT,
    ),
    "context59_zsseg": LabelledDataset(
        title="Pascal Context, 59 classes as zsseg lists them, background ignored",
        source=dict(name="pascal_context", classes=59),
        label_space="context59_zsseg",
        **_CONTEXT,
    ),
    "context60": LabelledDataset(
        title="Pascal Context, 59 classes and background",
        source=dict(name="pascal_context", classes=60),
        label_space="pascal_context60",
        **_CONTEXT,
    ),
    "context459": LabelledDataset(
        title="Pascal Context, all 459 classes",
        source=dict(name="pascal_context", classes=459),
        label_space="pascal_context459",
        **_CONTEXT,
    ),
    "context_50_10": LabelledDataset(
        title="Pascal Context, 50 seen classes (background among them) and 10 unseen",
        source=dict(name="pascal_context", classes=60),
        label_space="context_50_10",
        **_CONTEXT,
    ),
    "ade150": LabelledDataset(
        title="ADE20K, 150 classes",
        source=dict(name="ade20k"),
        label_space="ade150",
        folder="ade20k",
        splits={"train": 20_210, "val": 2000},
        preparation="ade20k",
    ),
    "ade847": LabelledDataset(
        title="ADE20K, full set of 847 classes",
        source=dict(name="ade20k_full"),
        label_space="ade847",
        folder="ade20k_full",
        splits={"train": 25_574, "val": 2000},
        preparation="ade20k_full",
    ),
    "cityscapes": LabelledDataset(
        title="Cityscapes, 19 classes",
        source=dict(name="cityscapes"),
        label_space="cityscapes19",
        folder="cityscapes",
        splits={"train": 2975, "val": 500},
        preparation="cityscapes",
    ),
    **_folds("pascal5i", "PASCAL-5i", "voc2012", _PASCAL5I),
    **_folds("coco20i", "COCO-20i", "coco2014", _COCO20I),
    "fss1000": LabelledDataset(
        title="FSS-1000",
        source=dict(name="fss1000"),
        label_space="fss1000",
        folder="fss1000",
        splits={"train": 5200, "val": 2400, "test": 2400},
        preparation="fss1000",
        episodes=True,
        evaluated="test",
    ),
    "coco_captions": CaptionDataset(
        title="COCO 2017 with captions",
        source=dict(name="coco_captions"),
        folder="coco_captions",
        splits={"train": 118_287, "val": 5000},
        preparation="coco_captions",
    ),
    **{
        name: CaptionDataset(
            title=title,
            source=dict(name="webdataset"),
            folder=name,
            splits={"train": count},
            preparation="webdataset",
        )
        for name, (title, count) in _FETCHED.items()
    },
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
