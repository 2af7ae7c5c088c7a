"""The Python interface: load a model, segment pictures with one's own words.

segmenter = ovseg_jax.load("runs/shapes_zegclip")
result = segmenter.segment("photo.jpg", "striped star; dotted ring; grass")
result.overlay().show()
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from ovseg_jax import models
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write_all, cache_folder
from ovseg_jax.inference import (
    Canvas,
    Model,
    Protocol,
    encode_dense,
    encode_vocabulary,
    lay_on_canvas,
    segment_canvases,
)
from ovseg_jax.params import digest
from ovseg_jax.pictures import read_picture
from ovseg_jax.report.colors import label_png, png
from ovseg_jax.report.overlay import overlay, present_classes
from ovseg_jax.text.embedding_cache import remembering
from ovseg_jax.text.label_space import (
    BACKGROUND,
    LabelSpace,
    add_background,
    from_words,
    scene_words,
)
from ovseg_jax.text.templates import load_templates
from ovseg_jax.text.tokenizer import Tokenizer
from ovseg_jax.text.vocabulary import Vocabulary, build_vocabulary
from ovseg_jax.weights import load_model_json

Picture = str | os.PathLike | np.ndarray | Image.Image

DEFAULT_THRESHOLD = 0.5
BACKGROUNDS = ("none", "threshold", "words")
_ROWS = 16  # vocabularies are padded to a multiple of this many queries
_KEPT_VOCABULARIES = 32
_BATCH = 8  # pictures of one canvas shape that go through the network together


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """A picture divided among names.

    Attributes:
      image: uint8 [H, W, 3], RGB.
      labels: int32 [H, W], indices into `names`.
      names: the classes, by their first words or as their label space shows them; 'background'
        first where one was asked for.
      scores: float32 [H, W, len(names)] where asked for; the best of a class's synonyms, after
        the softmax if the decision needs one.
    """

    image: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray | None = None

    def areas(self) -> dict[str, float]:
        """Share of the picture of each name that was found, largest first; they add up to 1."""
        return {
            self.names[index]: share
            for index, share in present_classes(self.labels, len(self.names))
        }

    def overlay(self) -> Image.Image:
        """The picture under its segments, with a legend; small pictures are enlarged."""
        return overlay(self.image, self.labels, self.names)

    def save(self, folder: str | os.PathLike, stem: str = "picture") -> dict[str, Path]:
        """Writes `<stem>_labels.png`, `<stem>_overlay.png` and `<stem>.json`, all or none.

        The labels are a palette PNG of the picture's own size, whose values are indices into the
        names listed in the JSON file. Scores, if there are any, go to `<stem>_scores.npz` as
        `scores` float16 [H, W, N] and `names`.

        Returns:
          The paths by kind: 'labels', 'overlay', 'areas' and, with scores, 'scores'.

        Raises:
          UserError: the disk is full or the folder cannot be written.
        """
        folder = Path(folder)
        paths = {
            "labels": folder / f"{stem}_labels.png",
            "overlay": folder / f"{stem}_overlay.png",
            "areas": folder / f"{stem}.json",
        }
        height, width = self.labels.shape
        pixels = np.bincount(self.labels.ravel(), minlength=len(self.names))
        description = {
            "width": width,
            "height": height,
            "names": list(self.names),
            "pixels": dict(zip(self.names, pixels.tolist(), strict=True)),
            "areas": self.areas(),
        }
        contents = {
            paths["labels"]: label_png(self.labels, len(self.names)),
            paths["overlay"]: png(self.overlay()),
            paths["areas"]: json.dumps(description, indent=1, ensure_ascii=False).encode(),
        }
        if self.scores is not None:
            paths["scores"] = folder / f"{stem}_scores.npz"
            arrays = {"scores": self.scores.astype(np.float16), "names": np.asarray(self.names)}
            contents[paths["scores"]] = functools.partial(np.savez_compressed, **arrays)
        atomic_write_all(contents)
        return paths


class Segmenter:
    """A loaded model; keeps compiled programs and vocabularies between calls."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        templates: Sequence[str],
        protocol: Protocol,
        cache: Path | None = None,
    ):
        """See `load`.

        Args:
          model: a system with its parameters.
          tokenizer: the one it was trained with.
          templates: prompts, where a call gives none.
          protocol: sizes and windows.
          cache: folder that keeps text embeddings between processes; None = they are not kept.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.templates = tuple(templates)
        self.protocol = protocol
        self.cache = cache
        # Kept per instance: a cache on the method would keep models alive.
        self._vocabulary = functools.lru_cache(_KEPT_VOCABULARIES)(self._build_vocabulary)

    def segment(
        self,
        pictures: Picture | Sequence[Picture],
        words: str | Sequence[str] | LabelSpace,
        templates: str | Sequence[str] | None = None,
        scores: bool = False,
        background: str = "none",
        threshold: float | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Gives every pixel one of the names.

        Args:
          pictures: a file, a PIL picture or an array (see `pictures.read_picture`), or a list.
          words: "cat; grass, lawn" or ["cat", "grass, lawn"]: classes apart by ';', synonyms
            by ','; or a label space.
          templates: prompts with a {} for the name, or a name of `text.templates`; the model's
            own if not given.
          scores: whether to return the scores too.
          background: what is none of the names: 'none' (every pixel gets one), 'threshold' (pixels
            whose best name is too improbable) or 'words' (names of scenes, such as sky and wall).
            Both add a name 'background' in front.
          threshold: the least probability of the best word where `background` is 'threshold',
            0.5 if not given; by the system it is a softmax over all words, or each word's own.

        Returns:
          A `Segmentation` of the picture's own size, or a list of them.

        Raises:
          UserError: an unreadable picture; words that are empty, repeated or unknown; a background
            that does not go with them.
        """
        space = words if isinstance(words, LabelSpace) else from_words(words)
        check_background(space, background, threshold)
        if isinstance(templates, str):
            templates = load_templates(templates)
        if background == "words":
            space = add_background(space, self._known_words(scene_words()))
        alone = len(space.classes) == 1 and not self.model.system().scores_are_probabilities
        if background == "threshold" and alone:
            raise UserError(
                "this model compares names with each other, and one name is always the most "
                "probable; name more classes, or use the background 'words'."
            )
        question = _Question(
            self._vocabulary(space.classes, tuple(templates or self.templates)),
            space.unique_names,
            self.protocol,
            scores,
        )
        if background == "threshold":
            question = question.with_threshold(
                DEFAULT_THRESHOLD if threshold is None else threshold
            )
        if isinstance(pictures, list | tuple):
            return self._segment(pictures, question)
        return self._segment([pictures], question)[0]

    def encode_dense(self, picture: Picture) -> np.ndarray:
        """Features of the patches, in the space of the names' embeddings.

        The picture is resized as for `segment` and taken whole, without windows, so that memory
        grows with the square of its area; incomplete patches at its right and lower ends are cut
        off. Each number of patches compiles a program of its own.

        Returns:
          float32 [h, w, E], of unit length; with the margins that a method adds around pictures.

        Raises:
          UserError: an unreadable picture, or one smaller than a patch.
        """
        protocol = dataclasses.replace(self.protocol, crop=0, patch=1, pad_patches=False)
        pixels = lay_on_canvas(read_picture(picture), protocol).pixels
        patch = self.model.system().patch_size
        height, width = (n // patch * patch for n in pixels.shape[:2])
        if not height or not width:
            raise UserError(f"the picture is smaller than a patch of {patch} pixels; enlarge it.")
        return np.asarray(encode_dense(self.model, pixels[None, :height, :width]))[0]

    def _build_vocabulary(
        self, classes: tuple[tuple[str, ...], ...], templates: tuple[str, ...]
    ) -> Vocabulary:
        self._check_words(classes)
        encode = functools.partial(encode_vocabulary, self.model)
        if self.cache is not None:
            encode = remembering(encode, self._digest, self.cache)
        vocabulary = build_vocabulary(
            encode,
            self.tokenizer,
            LabelSpace("words", classes),
            templates,
            pad_to_multiple=_ROWS,
        )
        # Nobody knows which of a user's words had masks; where none had, nothing is calibrated.
        return dataclasses.replace(vocabulary, seen=jnp.zeros_like(vocabulary.seen))

    @functools.cached_property
    def _digest(self) -> str:
        return digest({**self.model.params, **self.model.state})

    def _unknown_words(self, text: str) -> tuple[str, ...]:
        """Those that a closed tokenizer cannot read; an open one reads all."""
        return getattr(self.tokenizer, "unknown_words", lambda text: ())(text)

    def _known_words(self, words: Sequence[str]) -> tuple[str, ...]:
        known = tuple(word for word in words if not self._unknown_words(word))
        if not known:
            raise UserError(
                "this model knows no names of scenes; use the background 'threshold' instead."
            )
        return known

    def _check_words(self, classes: tuple[tuple[str, ...], ...]) -> None:
        """A closed tokenizer reads every foreign word as the same one: no answer is better."""
        for query in (word for synonyms in classes for word in synonyms):
            if unknown := self._unknown_words(query):
                raise UserError(
                    f"this model has never met the word {unknown[0]!r} (in {query!r}); use words "
                    "of the captions that it was trained on, in any combination."
                )

    def _segment(self, pictures: Sequence[Picture], question: "_Question") -> list[Segmentation]:
        images = [read_picture(picture) for picture in pictures]
        canvases = [lay_on_canvas(image, question.protocol) for image in images]
        found: dict[int, Segmentation] = {}
        for group in _alike(canvases):
            labels, rows = segment_canvases(
                self.model,
                question.vocabulary,
                [canvases[i] for i in group],
                question.protocol,
                question.scores,
            )
            for place, i in enumerate(group):
                height, width = images[i].shape[:2]
                own = np.asarray(labels[place])[:height, :width]
                row = None
                if rows is not None:
                    row = question.per_class(np.asarray(rows[place])[:height, :width])
                found[i] = Segmentation(images[i], own, question.names, row)
        return [found[i] for i in range(len(images))]


@dataclasses.dataclass(frozen=True)
class _Question:
    """What is asked of pictures: names, how they are compared, and whether scores are wanted."""

    vocabulary: Vocabulary
    names: tuple[str, ...]
    protocol: Protocol
    scores: bool

    def with_threshold(self, threshold: float) -> "_Question":
        """Adds a class in front that has no words and takes what is too improbable."""
        ids = self.vocabulary.class_ids
        return _Question(
            dataclasses.replace(self.vocabulary, class_ids=jnp.where(ids < 0, ids, ids + 1)),
            (BACKGROUND, *self.names),
            dataclasses.replace(self.protocol, threshold=threshold),
            self.scores,
        )

    def per_class(self, rows: np.ndarray) -> np.ndarray:
        """Best score of the synonyms of each class, [H, W, N] -> [H, W, classes].

        A class without words has its threshold.
        """
        ids = np.asarray(self.vocabulary.class_ids)
        best = np.full((*rows.shape[:2], len(self.names)), self.protocol.threshold, np.float32)
        for index in np.unique(ids[ids >= 0]):
            best[..., index] = rows[..., ids == index].max(axis=-1)
        return best


def check_background(space: LabelSpace, background: str, threshold: float | None) -> None:
    """Finds mistakes in what `Segmenter.segment` is asked for, before a model is at work.

    Raises:
      UserError: an unknown background, one that the words name themselves, or a threshold that is
        no probability or goes with another background.
    """
    if background not in BACKGROUNDS:
        raise UserError(f"unknown background {background!r}; use one of {', '.join(BACKGROUNDS)}.")
    own = space.background is not None or BACKGROUND in map(str.lower, space.display_names)
    if background != "none" and own:
        raise UserError(
            f"{space.name!r} has a background of its own; take it out of the classes, or use the "
            "background 'none'."
        )
    if threshold is None:
        return
    if background != "threshold":
        raise UserError("a threshold goes with the background 'threshold' and no other.")
    if not 0 < threshold < 1:
        raise UserError(f"the threshold {threshold} is no probability; use one such as 0.5.")


def _alike(canvases: Sequence[Canvas]) -> Iterator[list[int]]:
    """Positions of canvases that go through the network together.

    Groups have `_BATCH` members or one, so that no other number of pictures is compiled.
    """
    by_shape: dict[tuple, list[int]] = {}
    for i, canvas in enumerate(canvases):
        by_shape.setdefault((canvas.pixels.shape, canvas.label_shape), []).append(i)
    for members in by_shape.values():
        whole = len(members) - len(members) % _BATCH
        for start in range(0, whole, _BATCH):
            yield members[start : start + _BATCH]
        for i in members[whole:]:
            yield [i]


def load(path: str | os.PathLike) -> Segmenter:
    """Loads a trained or converted model.

    Args:
      path: a run folder, a converted model's folder, or the name of a packaged model.

    Raises:
      UserError: the folder or its model.json is missing, holds no weights, or holds weights of
        another architecture (the parameters are named).
    """
    folder = models.model_folder(str(path))
    config = ConfigDict(load_model_json(folder))
    if "system" not in config and "layout" in config.get("notes", {}):
        raise UserError(
            f"{folder} holds a part of a model ({config.notes.layout}); name it in "
            "config.pretrained of a recipe, and give the folder of a whole model here."
        )
    missing = [section for section in models.MODEL_SECTIONS if section not in config]
    if missing:
        raise UserError(
            f"{folder / 'model.json'} lacks the section {missing[0]!r}; train or convert the model "
            "again."
        )
    return Segmenter(
        models.load_model(config, folder),
        models.folder_tokenizer(config, folder),
        load_templates(config.vocabulary.templates),
        # Of a user's own words none is the background that these rules fall back to.
        dataclasses.replace(Protocol.from_config(config.eval), area=0.0, threshold=0.0),
        cache=cache_folder("embeddings"),
    )
