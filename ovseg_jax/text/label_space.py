"""Label spaces: the classes of a data set, the words that name them, and what is held out.

Packaged as JSON in `label_spaces/`, one file per data set *and naming*, because published scores
depend on the exact strings.
"""

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg_jax.errors import UserError, nearest
from ovseg_jax.text.label_space_check import KINDS, check_content

_FOLDER = Path(__file__).parent / "label_spaces"
BACKGROUND = "background"


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set in evaluation order.

    Attributes:
      name: what it is, for reports.
      classes: query strings of each class; several are synonyms, each its own text query.
      seen: indices of the classes whose masks may be trained on; both tuples are empty where a
        data set has no such split.
      unseen: indices of the held-out classes.
      ignore_label: value of pixels that do not count.
      background: index of the background class, or None.
      reduce_zero_label: label files count from 1, 0 is to be ignored.
      canonical: the data set's own class names where they differ from the queries.
      folds: classes held out together in few-shot evaluation, each in one fold; empty where a data
        set has none.
      extra: whatever else the file says (remapping tables, notes).
    """

    name: str
    classes: tuple[tuple[str, ...], ...]
    seen: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    ignore_label: int = 255
    background: int | None = None
    reduce_zero_label: bool = False
    canonical: tuple[str, ...] = ()
    folds: tuple[tuple[int, ...], ...] = ()
    extra: Mapping = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        if fault := self._fault():
            raise UserError(f"label space {self.name!r} {fault}")

    def _fault(self) -> str | None:
        """What is wrong with the classes and the numbers that refer to them."""
        count = len(self.classes)
        split, folds = (*self.seen, *self.unseen), sorted(itertools.chain(*self.folds))
        outside = [i for i in split if not 0 <= i < count]
        if not self.classes:
            return "has no class, give it at least one name"
        if any(not words or not all(word.strip() for word in words) for words in self.classes):
            return "has a class without a name, write one"
        if outside:
            return f"lists class {outside[0]} as seen or unseen but has only {count} classes"
        if twice := _repeated(split):
            return f"lists class {twice[0]} twice as seen or unseen, leave one of them out"
        if folds and folds != list(range(count)):
            return f"has folds that do not hold each of its {count} classes once, list it in one"
        if self.canonical and len(self.canonical) != count:
            return (
                f"has {len(self.canonical)} canonical names, list one for each of {count} classes"
            )
        if self.background is not None and not 0 <= self.background < count:
            return f"has class {self.background} as background but only {count} classes"
        return None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """First query string of each class."""
        return tuple(words[0] for words in self.classes)

    @property
    def display_names(self) -> tuple[str, ...]:
        """The data set's own class names, for tables and legends."""
        return self.canonical or self.names

    @property
    def unique_names(self) -> tuple[str, ...]:
        """Display names, told apart by a number where a data set has two classes of one name."""
        names = self.display_names
        return tuple(
            name if name not in names[:index] else f"{name} ({1 + names[:index].count(name)})"
            for index, name in enumerate(names)
        )

    def subset(self, which: str) -> tuple[int, ...]:
        """Returns class indices in ascending order.

        Args:
          which: 'all', 'seen' or 'unseen'.

        Raises:
          UserError: for another word, or a split that this label space does not have.
        """
        if which == "all":
            return tuple(range(len(self.classes)))
        if which not in ("seen", "unseen"):
            raise UserError(f"unknown subset {which!r} of classes, use 'all', 'seen' or 'unseen'")
        indices = self.seen if which == "seen" else self.unseen
        if not indices:
            raise UserError(f"label space {self.name!r} has no {which} classes, use 'all'")
        return tuple(sorted(indices))


def label_space_names() -> tuple[str, ...]:
    """Returns the names of the packaged label spaces."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def load_label_space(name_or_path: str | Path) -> LabelSpace:
    """Loads a packaged label space by name, or one's own from a JSON file.

    Args:
      name_or_path: a name of `label_space_names()`, or a path that ends in .json. Such a file
        needs `classes` (a list of names, or of lists of synonyms) and may have the other fields of
        `LabelSpace`; whatever else it says becomes `extra`.

    Raises:
      UserError: for an unknown name, a missing or unreadable file, keys of wrong types, classes
        that are empty or named twice, or numbers that do not fit them.
    """
    packaged = _FOLDER / f"{name_or_path}.json"
    if str(name_or_path) in label_space_names():
        # Three published lists name a word twice ('bed', 'screen'); their scores contain that.
        return _from_json(json.loads(packaged.read_text(encoding="utf-8")), packaged.stem)
    path = Path(name_or_path)
    if path.suffix != ".json":
        name = str(name_or_path)
        raise UserError(
            f"unknown label space {name!r} (a file of your own ends in .json); "
            f"{nearest(name, label_space_names())}"
        )
    content = _read_json(path)
    check_content(content, repr(str(path)))
    space = _from_json(content, path.stem)
    _check_unique(itertools.chain(*space.classes))
    _check_unique(space.canonical)
    return space


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no label space file {str(path)!r}") from None
    except OSError as error:
        raise UserError(
            f"cannot read label space file {str(path)!r} ({error.strerror}), check it"
        ) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}: {error.msg}"
        raise UserError(
            f"label space file {str(path)!r} is no JSON ({where}), mend it there"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"label space file {str(path)!r} is not UTF-8, save it as such") from None


def from_words(words: str | Sequence[str], name: str = "words") -> LabelSpace:
    """Makes a label space from a user's own words.

    Args:
      words: classes separated by ';' (or given one by one), synonyms within a class by ',' :
        "cat; grass, lawn" has two classes, the second with two queries.
      name: of the result.

    Raises:
      UserError: when there is no word, or one occurs twice.
    """
    parts = words.split(";") if isinstance(words, str) else words
    classes = [
        tuple(re.sub(r"\s+", " ", word).strip() for word in part.split(",") if word.strip())
        for part in parts
    ]
    classes = [synonyms for synonyms in classes if synonyms]
    if not classes:
        raise UserError("the list of words is empty, name at least one class: 'cat; grass, lawn'")
    space = LabelSpace(name, tuple(classes))
    _check_unique(itertools.chain(*space.classes))
    return space


def read_words(path: str | Path) -> LabelSpace:
    """Reads a user's own words from a file: a class in each line, synonyms by ','.

    Raises:
      UserError: as `from_words`, or the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"cannot read the words in {path} ({reason}); check the file.") from error
    return from_words(lines, Path(path).stem)


def scene_words() -> tuple[str, ...]:
    """Returns names of what surrounds things: SCLIP's words for the background of PASCAL VOC."""
    return load_label_space("voc21").classes[0]


def add_background(space: LabelSpace, words: Sequence[str]) -> LabelSpace:
    """Puts a class 'background' in front, of those words that the space does not hold itself."""
    own = {word.strip().lower() for synonyms in space.classes for word in synonyms}
    return dataclasses.replace(
        space,
        classes=(tuple(word for word in words if word not in own), *space.classes),
        seen=tuple(i + 1 for i in space.seen),
        unseen=tuple(i + 1 for i in space.unseen),
        background=0,
        canonical=(BACKGROUND, *space.display_names),
        folds=(),  # they would have to hold it too
    )


def _check_unique(words: Iterable[str]) -> None:
    if twice := _repeated(word.strip().lower() for word in words):
        raise UserError(f"{twice[0]!r} is named twice, leave one of them out")


def _repeated(values: Iterable[Hashable]) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _from_json(content: Mapping, stem: str) -> LabelSpace:
    classes = [(words,) if isinstance(words, str) else tuple(words) for words in content["classes"]]
    canonical = tuple(content.get("canonical", ()))
    ignore, background = content.get("ignore_label"), content.get("background")
    if (
        len(canonical) < len(classes)
        and background is not None
        and background + 1 == len(canonical)
    ):
        # Queries beyond the evaluated classes all name the background, the last one (PAS-20b).
        classes[background:] = [tuple(itertools.chain(*classes[background:]))]
    return LabelSpace(
        name=content.get("name", stem),
        classes=tuple(classes),
        seen=tuple(content.get("seen", ())),
        unseen=tuple(content.get("unseen", ())),
        ignore_label=255 if ignore is None else ignore,
        background=background,
        reduce_zero_label=bool(content.get("reduce_zero_label")),
        canonical=canonical,
        folds=tuple(map(tuple, content.get("folds", ()))),
        extra={key: value for key, value in content.items() if key not in KINDS},
    )
