"""Regions of drawn scenes, one class at a time: what zsseg learns a prompt from in this world."""

import itertools
import sys

import numpy as np

from data_pipelines.sources.shapes import CLASSES, REFERENCE_CANVAS, SEEN, UNSEEN, ShapesSource
from ovseg_jax.errors import UserError

SUBSETS = {"all": tuple(range(len(CLASSES))), "seen": SEEN, "unseen": UNSEEN}


class ShapesRegionsSource:
    """(scene, class) pairs of the embedded world.

    `source[i]` is a dict of
      image uint8 [H, W, 3]; label uint8 [H, W], 1 where the class is and 0 elsewhere;
      class_id int32.
    """

    def __init__(
        self,
        split: str,
        subset: str = "all",
        seed: int = 0,
        size: int = 1024,
        canvas: int = REFERENCE_CANVAS,
    ):
        """Describes the pairs; nothing is drawn yet.

        Args:
          split: as of `ShapesSource`, like `seed` and `canvas`.
          subset: which classes are looked for, one of SUBSETS.
          seed: of the world.
          size: number of pairs.
          canvas: side of the pictures in pixels.

        Raises:
          UserError: for an argument outside these.
        """
        if subset not in SUBSETS:
            raise UserError(f"unknown subset {subset!r} of shapes_regions, use one of {[*SUBSETS]}")
        if size < 1:
            raise UserError(f"size {size} of shapes_regions must be positive")
        self._classes = SUBSETS[subset]
        self._size = size
        # No end: pairs go on to further scenes until they find a class.
        self._scenes = ShapesSource(seed, sys.maxsize, canvas, split=split)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict:
        """Draws one pair; a pure function of the source's arguments and the index.

        The scene is the first of number `index`, `index + size`, … that has a class of the subset;
        which of them is looked for is drawn, each as likely.
        """
        if not 0 <= index < self._size:
            raise IndexError(f"pair {index} of {self._size}")
        for number in itertools.count(index, self._size):
            scene = self._scenes[number]
            found = np.intersect1d(scene["label"], self._classes)
            if len(found):
                break
        chosen = np.random.default_rng(index).choice(found)
        label = (scene["label"] == chosen).astype(np.uint8)
        return {"image": scene["image"], "label": label, "class_id": np.int32(chosen)}
