"""Drawn scenes with the labels of any data set: what twins are made of."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.sources.shapes import ShapesSource

_SIZES = ((72, 96), (96, 72), (96, 96))  # height, width


def draw_scene(
    index: int, values: Sequence[int], void: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """A scene of the embedded world whose classes are renamed.

    Args:
      index: of the scene; its size depends on it.
      values: stored label values that the scene's classes become, another few for each scene.
      void: value of a pixel-wide seam between classes, as VOC draws it; None = no seam.

    Returns:
      Picture uint8 [H, W, 3], label int32 [H, W].
    """
    height, width = _SIZES[index % len(_SIZES)]
    scene = ShapesSource(split="validation", canvas=96, size=index + 1)[index]
    image, drawn = (scene[key][:height, :width] for key in ("image", "label"))
    present = np.unique(drawn)
    # Neighbouring scenes go on where the last one stopped, so that few cover many values.
    chosen = [values[(3 * index + k) % len(values)] for k in range(len(present))]
    label = np.asarray(chosen, np.int32)[np.searchsorted(present, drawn)]
    if void is not None:
        seam = np.zeros(drawn.shape, bool)
        seam[:, 1:] |= drawn[:, 1:] != drawn[:, :-1]
        seam[1:] |= drawn[1:] != drawn[:-1]
        label[seam] = void
    return image, label


def draw_captioned(index: int) -> tuple[np.ndarray, str]:
    """Picture uint8 [H, W, 3] and caption of a scene of the embedded world."""
    scene = ShapesSource(split="validation", canvas=96, size=index + 1)[index]
    height, width = _SIZES[index % len(_SIZES)]
    return scene["image"][:height, :width], scene["caption"]


def draw_splits(
    splits: Sequence[str], count: int, values: Sequence[int], void: int | None
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """The scenes of a twin: `count` for each split, all different.

    Yields:
      Split, number within it from 1, picture and label; see `draw_scene`.
    """
    for index in range(len(splits) * count):
        split, number = divmod(index, count)
        yield splits[split], number + 1, *draw_scene(index, values, void)
