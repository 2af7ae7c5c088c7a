"""Transforms of single examples, as small named steps.

An example is a dict: `image` uint8 [H, W, 3], `label` integer [H, W], `caption` str, and whatever
else its source documents. **Images are RGB.** The references work on BGR as OpenCV decodes it;
every step here either treats the channels alike or names their order to OpenCV, so that its result
is the reference's with the channels reversed, value for value.

A step draws its random numbers in `draw` and uses them in `apply`; calling it does both. The draws
come in the order of the reference, so recorded ones can be replayed. Steps return a new dict and
never write into arrays that they were given: sources may hand out what they keep.

`create_transforms` makes steps from a config: `(dict(name="flip", probability=0.5), …)`.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.metrics import mmseg

Example = dict[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]


@dataclasses.dataclass(frozen=True)
class Step:
    """A transform in two halves."""

    def draw(self, rng: np.random.Generator, example: Example) -> Any:
        """Draws what `apply` needs; None for a step without randomness."""

    def apply(self, example: Example, drawn: Any) -> Example:
        """Makes the new example from what was drawn."""
        raise NotImplementedError

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Draws and applies."""
        return self.apply(example, self.draw(rng, example))


@dataclasses.dataclass(frozen=True)
class ReduceZeroLabel(Step):
    """Stored label 0 means nothing: it becomes the ignore label, the others move down by one.

    Not for a source that does so itself (`FolderSource(reduce_zero_label=True)`).
    """

    ignore_label: int = 255

    def apply(self, example: Example, drawn: Any) -> Example:
        """See `ovseg_jax.metrics.mmseg.reduce_zero_label`."""
        return example | {"label": mmseg.reduce_zero_label(example["label"], self.ignore_label)}


def fit_size(size: tuple[int, int], box: tuple[float, float]) -> tuple[int, int]:
    """Largest size of the same ratio that fits into a box, either way round (mmcv's rule).

    Args:
      size: height and width.
      box: two side lengths, in any order.
    """
    height, width = size
    factor = min(max(box) / max(height, width), min(box) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Size of the same ratio whose short side is exact; the long side has no limit."""
    return fit_size(size, (short_side * max(size) / min(size), short_side))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear without antialiasing; 8-bit images in OpenCV's fixed-point arithmetic."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour by the floor rule."""
    return cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


@dataclasses.dataclass(frozen=True)
class ResizeRatio(Step):
    """Keeps the ratio and fits image and label into a box of random size.

    Attributes:
      box: long and short side at ratio 1, pixels.
      ratio_range: lower and upper bound of the ratio.
    """

    box: tuple[int, int] = (2048, 512)
    ratio_range: tuple[float, float] = (0.5, 2.0)

    def draw(self, rng: np.random.Generator, example: Example) -> float:
        """A ratio."""
        low, high = self.ratio_range
        return rng.random() * (high - low) + low

    def apply(self, example: Example, drawn: float) -> Example:
        """Resizes image (bilinear) and label (nearest)."""
        box = tuple(int(side * drawn) for side in self.box)
        size = fit_size(example["image"].shape[:2], box)
        changed = {"image": resize_image(example["image"], size)}
        if "label" in example:
            changed["label"] = resize_label(example["label"], size)
        return example | changed


@dataclasses.dataclass(frozen=True)
class ResizeShortSide(Step):
    """Test-time resizing of the image; the label keeps its size, in which it is scored."""

    short_side: int = 512

    def apply(self, example: Example, drawn: Any) -> Example:
        """Resizes the image only."""
        size = short_side_size(example["image"].shape[:2], self.short_side)
        return example | {"image": resize_image(example["image"], size)}


@dataclasses.dataclass(frozen=True)
class RandomCrop(Step):
    """A crop in which, if ten tries allow, no class fills nearly everything.

    Attributes:
      size: height and width; a smaller image keeps its side.
      cat_max_ratio: a crop is accepted if it has two classes or more and the most frequent one has
        less than this share of its pixels (ignored ones apart). 1 accepts every crop.
      ignore_label: label that is no class.
    """

    size: tuple[int, int] = (512, 512)
    cat_max_ratio: float = 0.75
    ignore_label: int = 255

    def draw(self, rng: np.random.Generator, example: Example) -> tuple[int, int]:
        """Top and left; after ten rejected crops the eleventh is taken unseen."""
        corner = self._corner(rng, example)
        if self.cat_max_ratio >= 1 or "label" not in example:
            return corner
        for _ in range(10):
            if self._accepts(self._cut(example["label"], corner)):
                break
            corner = self._corner(rng, example)
        return corner

    def apply(self, example: Example, drawn: tuple[int, int]) -> Example:
        """Cuts image and label."""
        return example | {
            key: self._cut(example[key], drawn) for key in ("image", "label") if key in example
        }

    def _corner(self, rng: np.random.Generator, example: Example) -> tuple[int, int]:
        height, width = example["image"].shape[:2]
        top = int(rng.integers(0, max(height - self.size[0], 0) + 1))
        left = int(rng.integers(0, max(width - self.size[1], 0) + 1))
        return top, left

    def _cut(self, array: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        top, left = corner
        return array[top : top + self.size[0], left : left + self.size[1]]

    def _accepts(self, label: np.ndarray) -> bool:
        counts = np.bincount(label.ravel(), minlength=self.ignore_label + 1)
        counts[self.ignore_label] = 0
        enough = np.count_nonzero(counts) > 1
        return bool(enough and counts.max() / counts.sum() < self.cat_max_ratio)


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
        return example | {
            key: cv2.flip(example[key], 1) for key in ("image", "label") if key in example
        }


@dataclasses.dataclass(frozen=True)
class Distortion:
    """What `Photometric` draws; None leaves a part out."""

    brightness: float | None
    contrast: float | None
    contrast_first: bool  # before saturation and hue, or after them
    saturation: float | None
    hue: int | None


@dataclasses.dataclass(frozen=True)
class Photometric(Step):
    """Brightness, contrast, saturation and hue, each with probability one half, on 8-bit pixels.

    Attributes:
      brightness: largest addend.
      contrast: lower and upper factor.
      saturation: lower and upper factor.
      hue: largest shift, in OpenCV's half degrees; the upper bound is exclusive.
    """

    brightness: float = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def draw(self, rng: np.random.Generator, example: Example) -> Distortion:
        """Coin first, then value, in the order of application."""
        brightness = self._maybe(rng, (-self.brightness, self.brightness))
        contrast_first = bool(rng.integers(2))
        contrast = self._maybe(rng, self.contrast) if contrast_first else None
        saturation = self._maybe(rng, self.saturation)
        hue = int(rng.integers(-self.hue, self.hue)) if rng.integers(2) else None
        if not contrast_first:
            contrast = self._maybe(rng, self.contrast)
        return Distortion(brightness, contrast, contrast_first, saturation, hue)

    def apply(self, example: Example, drawn: Distortion) -> Example:
        """Distorts the image; every part rounds to 8 bits on its own, as in the reference."""
        image = example["image"]
        if drawn.brightness is not None:
            image = scale_pixels(image, offset=drawn.brightness)
        if drawn.contrast is not None and drawn.contrast_first:
            image = scale_pixels(image, factor=drawn.contrast)
        if drawn.saturation is not None:
            image = scale_saturation(image, drawn.saturation)
        if drawn.hue is not None:
            image = shift_hue(image, drawn.hue)
        if drawn.contrast is not None and not drawn.contrast_first:
            image = scale_pixels(image, factor=drawn.contrast)
        return example | {"image": image}

    @staticmethod
    def _maybe(rng: np.random.Generator, bounds: tuple[float, float]) -> float | None:
        return float(rng.uniform(*bounds)) if rng.integers(2) else None


def _pixel_table(factor: float, offset: float) -> np.ndarray:
    """All 256 results of clip(factor * value + offset), truncated: uint8 [256]."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(values, 0, 255).astype(np.uint8)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """Converts 8-bit HSV (H in 0..179) to RGB, alike on every processor.

    OpenCV truncates in its vector code and rounds in the scalar code that finishes a row, and the
    processor sets where the one ends. One level of difference becomes several once it has gone
    through HSV again. Here the vector code takes whole blocks of 64 pixels (AVX-512, which divides
    by all shorter vectors), the scalar code the rest, in rows too short for any vector.
    """
    height, width = hsv.shape[:2]
    blocks = width // 64 * 64
    rgb = np.empty_like(hsv)
    if blocks:
        rgb[:, :blocks] = cv2.cvtColor(hsv[:, :blocks], cv2.COLOR_HSV2RGB)
    if blocks < width:
        rest = np.ascontiguousarray(hsv[:, blocks:]).reshape(-1, 1, 3)
        rgb[:, blocks:] = cv2.cvtColor(rest, cv2.COLOR_HSV2RGB).reshape(height, -1, 3)
    return rgb


def _through_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """Maps one HSV channel of an RGB image (uint8; H in 0..179) through a table."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    tables = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    tables[0, :, channel] = table
    return hsv_to_rgb(cv2.LUT(hsv, tables))


def scale_pixels(image: np.ndarray, factor: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Brightness and contrast: factor * value + offset in float32, clipped and truncated."""
    return cv2.LUT(image, _pixel_table(factor, offset))


def scale_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the saturation of an 8-bit RGB image."""
    return _through_hsv(image, 1, _pixel_table(factor, 0.0))


def shift_hue(image: np.ndarray, shift: int) -> np.ndarray:
    """Turns the hue of an 8-bit RGB image by `shift` steps of two degrees."""
    return _through_hsv(image, 0, ((np.arange(256) + shift) % 180).astype(np.uint8))


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


STEPS: dict[str, type[Step]] = {
    "reduce_zero_label": ReduceZeroLabel,
    "resize_ratio": ResizeRatio,
    "resize_short_side": ResizeShortSide,
    "random_crop": RandomCrop,
    "flip": Flip,
    "photometric": Photometric,
    "normalize": Normalize,
    "pad": Pad,
    "tokenize": Tokenize,
    "select": Select,
}


def create_transforms(
    specs: Sequence[Mapping[str, Any]], tokenizer: Callable | None = None
) -> tuple[Step, ...]:
    """Makes the steps that a config lists.

    Args:
      specs: one mapping per step, its `name` and its fields.
      tokenizer: what `tokenize` uses; needed only if that step is listed.

    Returns:
      The steps, in order.

    Raises:
      UserError: an unknown step or field, a missing field, or no tokenizer for `tokenize`.
    """
    return tuple(_create_step(dict(spec), tokenizer) for spec in specs)


def _create_step(fields: dict[str, Any], tokenizer: Callable | None) -> Step:
    name = fields.pop("name", None)
    if name not in STEPS:
        raise UserError(f"unknown transform {name!r}; {_nearest(str(name), list(STEPS))}")
    if name == "tokenize":
        if tokenizer is None:
            raise UserError("the transform 'tokenize' needs a tokenizer; give the model's")
        fields["tokenizer"] = tokenizer
    known = {field.name: field for field in dataclasses.fields(STEPS[name])}
    for field in fields:
        if field not in known:
            raise UserError(
                f"the transform {name!r} has no field {field!r}; {_nearest(field, list(known))}"
            )
    required = [key for key, field in known.items() if field.default is dataclasses.MISSING]
    missing = [key for key in required if key not in fields]
    if missing:
        raise UserError(f"the transform {name!r} lacks {', '.join(missing)}; give it in the config")
    return STEPS[name](**fields)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(known)}" if known else "it takes none"
