"""What every transform is: a step that draws its random numbers, then applies them."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from ovseg_jax.errors import UserError

Example = dict[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]

# Keys of an example that hold one value per pixel, so that every change of geometry moves them.
PIXELS = ("image", "label")


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


def refuse_label(example: Example, name: str) -> None:
    """Guards a step that moves the pixels of the image only.

    Raises:
      UserError: the example has a label.
    """
    if "label" in example:
        raise UserError(
            f"the transform {name!r} would move the image away from its label; use it only with "
            "sources that have no labels"
        )


def check_choice(transform: str, field: str, value: str, options: Collection[str]) -> None:
    """Guards a field that is one of a few words.

    Raises:
      UserError: it is none of them.
    """
    if value not in options:
        raise UserError(
            f"unknown {field} {value!r} of the transform {transform!r}; use one of "
            f"{', '.join(options)}"
        )
