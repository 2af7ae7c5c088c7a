"""A twin of COCO-Stuff 164k, which serves COCO-Object too."""

from pathlib import Path

import numpy as np

from data_pipelines.prepare.images import encode
from data_pipelines.prepare.scenes import draw_scene
from data_pipelines.sources.coco_stuff import SPLITS, VALUES, VOID
from ovseg_jax.files import atomic_write


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn examples for each split as the official archives unpack."""
    for number, split in enumerate(SPLITS):
        for index in range(number * count, (number + 1) * count):
            image, label = draw_scene(index, (VOID, *VALUES), None)
            name = f"{index + 1:012d}"
            labels = output / "stuffthingmaps" / f"{split}2017"
            atomic_write(output / f"{split}2017" / f"{name}.jpg", encode(image, ".jpg"))
            atomic_write(labels / f"{name}.png", encode(label.astype(np.uint8), ".png"))
    return f"{len(SPLITS) * count} examples in {output}"
