"""A twin of FSS-1000."""

import itertools
from pathlib import Path

import numpy as np

from data_pipelines.prepare.images import encode
from data_pipelines.prepare.scenes import draw_scene
from data_pipelines.sources.fss1000 import PICTURES, SPLITS, split_classes
from ovseg_jax.files import atomic_write


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn pictures for each split, those of its first classes."""
    numbers = itertools.count()
    for split in SPLITS:
        pictures = itertools.product(split_classes(split), range(1, PICTURES + 1))
        for (_, name), number in itertools.islice(pictures, count):
            image, mask = draw_scene(next(numbers), (0, 255), None)
            grey = np.repeat(mask.astype(np.uint8)[..., None], 3, axis=2)
            atomic_write(output / name / f"{number}.jpg", encode(image, ".jpg"))
            atomic_write(output / name / f"{number}.png", encode(grey, ".png"))
    return f"{len(SPLITS) * count} examples in {output}"
