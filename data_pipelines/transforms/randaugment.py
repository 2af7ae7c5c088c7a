"""RandAugment in timm's form `rand-m9-mstd0.5-inc1` (Cubuk et al., 2020), for GroupViT.

Larger levels always change more ("increasing"). Every operation is PIL's own.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from data_pipelines.transforms.step import Example, Step, refuse_label

Fill = tuple[int, int, int]


class Operation(NamedTuple):
    """One operation as it is drawn.

    Attributes:
      name: a key of `OPERATIONS`.
      level: strength, 0..10.
      negative: whether the argument is turned round, for operations that have two directions.
    """

    name: str
    level: float
    negative: bool


def _posterize(image: Image.Image, bits: float, fill: Fill) -> Image.Image:
    # No bits make a black image, as in old versions of PIL; new ones refuse them.
    return image.point([value & (256 - 2 ** (8 - int(bits))) for value in range(256)] * 3)


def _solarize_add(image: Image.Image, addend: float, fill: Fill) -> Image.Image:
    brighter = [min(255, value + int(addend)) if value < 128 else value for value in range(256)]
    return image.point(brighter * 3)


def _rotate(image: Image.Image, degrees: float, fill: Fill) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    method = Image.Transform.AFFINE
    return image.transform(image.size, method, matrix, Image.Resampling.BILINEAR, fillcolor=fill)


def _share(factor: float) -> Callable[[float, int], float]:
    return lambda level, sign: sign * (level / 10 * factor)


def _factor(level: float, sign: int) -> float:
    return 1.0 + sign * (level / 10 * 0.9)


def _none(level: float, sign: int) -> float:
    return 0.0


def _plain(function: Callable[[Image.Image], Image.Image]) -> Callable:
    return lambda image, nothing, fill: function(image)


def _enhanced(kind: type) -> Callable:
    return lambda image, factor, fill: kind(image).enhance(factor)


# Name -> the argument (of level and sign), and the image (of image, argument and fill colour).
OPERATIONS: dict[
    str, tuple[Callable[[float, int], float], Callable[[Image.Image, float, Fill], Image.Image]]
] = {
    "AutoContrast": (_none, _plain(ImageOps.autocontrast)),
    "Equalize": (_none, _plain(ImageOps.equalize)),
    "Invert": (_none, _plain(ImageOps.invert)),
    "Rotate": (_share(30), _rotate),
    "PosterizeIncreasing": (lambda level, _: 4 - int(level / 10 * 4), _posterize),
    "SolarizeIncreasing": (
        lambda level, _: 256 - int(level / 10 * 256),
        lambda image, threshold, fill: ImageOps.solarize(image, threshold),
    ),
    "SolarizeAdd": (lambda level, _: int(level / 10 * 110), _solarize_add),
    "ColorIncreasing": (_factor, _enhanced(ImageEnhance.Color)),
    "ContrastIncreasing": (_factor, _enhanced(ImageEnhance.Contrast)),
    "BrightnessIncreasing": (_factor, _enhanced(ImageEnhance.Brightness)),
    "SharpnessIncreasing": (_factor, _enhanced(ImageEnhance.Sharpness)),
    "ShearX": (_share(0.3), lambda image, x, fill: _affine(image, (1, x, 0, 0, 1, 0), fill)),
    "ShearY": (_share(0.3), lambda image, x, fill: _affine(image, (1, 0, 0, x, 1, 0), fill)),
    "TranslateXRel": (
        _share(0.45),
        lambda image, x, fill: _affine(image, (1, 0, x * image.width, 0, 1, 0), fill),
    ),
    "TranslateYRel": (
        _share(0.45),
        lambda image, x, fill: _affine(image, (1, 0, 0, 0, 1, x * image.height), fill),
    ),
}


def argument(operation: Operation) -> float:
    """What the image function of an operation is called with; 0 where it takes nothing."""
    return OPERATIONS[operation.name][0](operation.level, -1 if operation.negative else 1)


def apply_operation(image: Image.Image, operation: Operation, fill: Fill) -> Image.Image:
    """Applies one operation to an RGB picture; `fill` is the colour where nothing is left."""
    return OPERATIONS[operation.name][1](image, argument(operation), fill)


@dataclasses.dataclass(frozen=True)
class RandAugment(Step):
    """A few operations on colour or geometry, drawn with replacement.

    Attributes:
      operations: how many are drawn.
      probability: of each of them to be applied.
      level: mean strength, 0..10.
      deviation: of the strength, which is normal and clipped to 0..10.
      fill: RGB colour where a picture was moved away; ImageNet's mean.
    """

    operations: int = 2
    probability: float = 0.5
    level: float = 9.0
    deviation: float = 0.5
    fill: Fill = (124, 116, 104)

    def draw(self, rng: np.random.Generator, example: Example) -> tuple[Operation, ...]:
        """The operations that are applied, in order."""
        names = rng.choice(list(OPERATIONS), self.operations)
        return tuple(
            self._operation(rng, str(name)) for name in names if rng.random() < self.probability
        )

    def apply(self, example: Example, drawn: tuple[Operation, ...]) -> Example:
        """Changes the image.

        Raises:
          UserError: the example has a label, which would no longer fit.
        """
        refuse_label(example, "rand_augment")
        if not drawn:
            return example
        picture = Image.fromarray(example["image"])
        for operation in drawn:
            picture = apply_operation(picture, operation, self.fill)
        return example | {"image": np.asarray(picture)}

    def _operation(self, rng: np.random.Generator, name: str) -> Operation:
        level = min(max(rng.normal(self.level, self.deviation), 0.0), 10.0)
        return Operation(name, level, bool(rng.random() < 0.5))
