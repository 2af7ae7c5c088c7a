"""COCO 2017 with its captions, five or more for each picture.

Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server", 2015.
"""

import json
from pathlib import Path

from data_pipelines.sources.labelled import read_image
from data_pipelines.sources.layouts import choice, find_root, first_folder
from ovseg_jax.errors import UserError

SPLITS = ("train", "val")
ARCHIVE = "annotations_trainval2017.zip"


class CocoCaptionsSource:
    """Pictures and captions as the official archives unpack them.

        root/train2017/000000000009.jpg    or root/images/train2017
        root/annotations/captions_train2017.json

    There is an example for each picture, in the order of their ids: `image` uint8 [H, W, 3] RGB;
    `captions`, a tuple of str in the order of their ids; `caption`, the first of them, for
    evaluation (the step `choose_caption` draws one for training); `name`, the picture's name
    without its ending; and `path`.
    """

    def __init__(self, root: str, split: str = "val"):
        """Reads the captions of the split.

        Args:
          root: the folder in which the archives were unpacked.
          split: 'train' (118 287 pictures) or 'val' (5000).

        Raises:
          UserError: an unknown split, a missing folder or list, a damaged list.
        """
        part = f"{choice(split, SPLITS, 'the split')}2017"
        captions = Path("annotations") / f"captions_{part}.json"
        self._pictures = read_captions(find_root(root, str(captions), (), ARCHIVE) / captions)
        self._folder = first_folder(root, (part, f"images/{part}"), "*.jpg", f"{part}.zip")

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    def __getitem__(self, index: int) -> dict:
        """Reads one picture.

        Raises:
          UserError: it is missing or unreadable.
        """
        file, captions = self._pictures[index]
        path = self._folder / file
        return {
            "image": read_image(path),
            "caption": captions[0],
            "captions": captions,
            "name": path.stem,
            "path": str(path),
        }


def read_captions(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """File name and captions of each picture of COCO's list; pictures without any are left out.

    Raises:
      UserError: the list is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        files = {picture["id"]: picture["file_name"] for picture in content["images"]}
        captions: dict[int, list[str]] = {}
        for note in sorted(content["annotations"], key=lambda note: note["id"]):
            captions.setdefault(note["image_id"], []).append(note["caption"].strip())
        return [(files[number], tuple(captions[number])) for number in sorted(captions)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(path)!r} is no list of captions; unpack {ARCHIVE} again") from error
