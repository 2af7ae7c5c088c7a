"""COCO 2017 with captions: a twin."""

import json
from pathlib import Path

from data_pipelines.prepare.images import encode
from data_pipelines.prepare.scenes import draw_captioned
from data_pipelines.sources.coco_captions import SPLITS
from ovseg_jax.files import atomic_write

_CAPTIONS = 5  # of each picture


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn pictures for each split, with captions, as the archives unpack."""
    for part, split in enumerate(SPLITS):
        images, notes = [], []
        for index in range(part * count, (part + 1) * count):
            image, caption = draw_captioned(index)
            number = 9 + 11 * index
            file = f"{number:012d}.jpg"
            atomic_write(output / f"{split}2017" / file, encode(image, ".jpg"))
            height, width = image.shape[:2]
            images.append(dict(license=4, file_name=file, height=height, width=width, id=number))
            texts = [caption, *(f"drawing {k}: {caption}" for k in range(2, _CAPTIONS + 1))]
            notes += [
                dict(image_id=number, id=k * 1000 + number, caption=f"{text.capitalize()}.\n")
                for k, text in enumerate(texts)
            ]
        # The official list names pictures in no order, and their captions apart from one another.
        notes.sort(key=lambda note: note["id"])
        content = dict(info={}, licenses=[], images=images[::-1], annotations=notes)
        path = output / "annotations" / f"captions_{split}2017.json"
        atomic_write(path, json.dumps(content).encode())
    return f"{len(SPLITS) * count} pictures with {_CAPTIONS} captions each in {output}"
