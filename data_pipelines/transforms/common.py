"""Steps that recipes of every origin share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from data_pipelines.transforms.step import PIXELS, Example, Step
from ovseg_jax.errors import UserError
from ovseg_jax.metrics import mmseg


@dataclasses.dataclass(frozen=True)
class ReduceZeroLabel(Step):
    """Stored label 0 means nothing: it becomes the ignore label, the others move down by one.

    Not for a source that does so itself (`FolderSource(reduce_zero_label=True)`).
    """

    ignore_label: int = 255

    def apply(self, example: Example, drawn: Any) -> Example:
        """See `ovseg_jax.metrics.mmseg.reduce_zero_label`."""
        return example | {"label": mmseg.reduce_zero_label(example["label"], self.ignore_label)}


@dataclasses.dataclass(frozen=True)
class Flip(Step):
    """Mirrors image and label; not for captions that say left or right."""

    probability: float = 0.5

    def draw(self, rng: np.random.Generator, example: Example) -> bool:
        """Whether to mirror."""
        return bool(rng.random() < self.probability)

    def apply(self, example: Example, drawn: bool) -> Example:
        """Mirrors if drawn."""
        if not drawn:
            return example
        return example | {key: cv2.flip(example[key], 1) for key in PIXELS if key in example}


@dataclasses.dataclass(frozen=True)
class Normalize(Step):
    """(pixel - mean) / std in float32.

    Only where a later step needs it on the host (`Pad` fills with the normalised 0, as ZegCLIP
    does): elsewhere 8-bit batches are smaller and `ovseg_jax.ops.images.normalize` does the same.

    Attributes:
      mean: RGB, in units of 0..255.
      std: as `mean`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def apply(self, example: Example, drawn: Any) -> Example:
        """Maps the 256 values of each channel through a table."""
        values = np.arange(256, dtype=np.float32)[None, :, None]
        table = (values - np.float32(self.mean)) * (1.0 / np.float64(self.std)).astype(np.float32)
        return example | {"image": cv2.LUT(example["image"], table)}


@dataclasses.dataclass(frozen=True)
class Pad(Step):
    """Fills up to a size at the right and at the bottom.

    Attributes:
      size: height and width; a larger image stays as it is.
      image_value: what the image is filled with.
      ignore_label: what the label is filled with.
    """

    size: tuple[int, int] = (512, 512)
    image_value: float = 0
    ignore_label: int = 255

    def apply(self, example: Example, drawn: Any) -> Example:
        """Pads image and label."""
        fill = {"image": self.image_value, "label": self.ignore_label}
        return example | {
            key: self._pad(example[key], value) for key, value in fill.items() if key in example
        }

    def _pad(self, array: np.ndarray, value: float) -> np.ndarray:
        height, width = array.shape[:2]
        shape = (max(height, self.size[0]), max(width, self.size[1]), *array.shape[2:])
        if shape == array.shape:
            return array
        padded = np.full(shape, value, array.dtype)
        padded[:height, :width] = array
        return padded


@dataclasses.dataclass(frozen=True)
class Tokenize(Step):
    """Turns `caption` into `text`, int32 [L], and `entities` into `entity_text`, int32 [K, M].

    Attributes:
      tokenizer: list of n strings -> int32 [n, L]; given by the caller of `create_transforms`.
      max_entities: K; of more entities the first ones are kept, rows left over are zeros. With 0
        there is no `entity_text`.
      entity_tokens: M <= L, start and end included: names are much shorter than captions.
    """

    tokenizer: Callable[[list[str]], np.ndarray]
    max_entities: int = 0
    entity_tokens: int = 8

    def apply(self, example: Example, drawn: Any) -> Example:
        """Adds the ids; the strings stay on the host.

        Raises:
          UserError: the source has no entities, or one has more than `entity_tokens` tokens.
        """
        if self.max_entities and "entities" not in example:
            raise UserError(
                "the transform 'tokenize' finds no entities in the example; choose a source that "
                "lists them, or set max_entities to 0"
            )
        names = [name for name in example.get("entities", "").split(";") if name]
        names = names[: self.max_entities]
        ids = np.asarray(self.tokenizer([example["caption"], *names]), np.int32)
        if not self.max_entities:
            return example | {"text": ids[0]}
        entity_text = np.zeros((self.max_entities, self.entity_tokens), np.int32)
        for row, name, tokens in zip(entity_text, names, ids[1:], strict=False):
            if tokens[self.entity_tokens :].any():
                raise UserError(
                    f"the entity {name!r} has more than {self.entity_tokens} tokens; raise "
                    "entity_tokens of the transform 'tokenize'"
                )
            row[: len(tokens)] = tokens[: self.entity_tokens]
        return example | {"text": ids[0], "entity_text": entity_text}


@dataclasses.dataclass(frozen=True)
class Select(Step):
    """Keeps what the training step needs, so that nothing else is stacked and sent to devices.

    Attributes:
      keys: of the example; its `size` stays too.
    """

    keys: tuple[str, ...]

    def apply(self, example: Example, drawn: Any) -> Example:
        """Drops the other keys.

        Raises:
          UserError: the example lacks one of `keys`.
        """
        for key in self.keys:
            if key not in example:
                raise UserError(
                    f"the transform 'select' finds no {key!r} in the example; it has "
                    f"{', '.join(sorted(example))}"
                )
        return {key: example[key] for key in example if key in (*self.keys, "size")}


@dataclasses.dataclass(frozen=True)
class Choose(Step):
    """Runs one of several lists of steps; an empty list leaves the example as it is.

    Attributes:
      branches: the lists; specs in a config, as `create_transforms` takes them.
      probabilities: of each list; they sum to 1.
    """

    branches: tuple[tuple[Step, ...], ...]
    probabilities: tuple[float, ...]

    def __post_init__(self):
        """Raises UserError for probabilities that do not fit."""
        if len(self.branches) != len(self.probabilities) or abs(sum(self.probabilities) - 1) > 1e-6:
            raise UserError(
                f"the transform 'choose' has {len(self.branches)} branches and the probabilities "
                f"{self.probabilities}; give one for each branch, with the sum 1"
            )

    def draw(self, rng: np.random.Generator, example: Example) -> tuple[int, int]:
        """A branch, and the seed of its steps, for what they draw depends on one another."""
        branch = int(rng.choice(len(self.branches), p=self.probabilities))
        return branch, int(rng.integers(2**63))

    def apply(self, example: Example, drawn: tuple[int, int]) -> Example:
        """Runs the branch."""
        branch, seed = drawn
        rng = np.random.Generator(np.random.Philox(key=seed))
        for step in self.branches[branch]:
            example = step(example, rng)
        return example
