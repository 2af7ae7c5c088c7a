"""One pass over pictures of any sizes: what every evaluation of pixels shares."""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.devices import local_mesh
from ovseg_jax.evaluation.processes import over_processes
from ovseg_jax.inference import Canvas, Model, Protocol, lay_on_canvas, segment_canvases
from ovseg_jax.report.gallery import Example, Gallery
from ovseg_jax.text.vocabulary import Vocabulary

_WAITING = 16  # batches whose pictures wait for others of their shape


class Batch(NamedTuple):
    """Pictures of one canvas and one label shape, filled up to a fixed number.

    Attributes:
      examples: those that count, the first ones of the batch.
      canvases: B of them; those that only fill up repeat the last one.
      truth: int32 [B, *label_shape], ignored beyond the pictures and in those that fill up.
    """

    examples: list[Mapping]
    canvases: list[Canvas]
    truth: jax.Array

    @classmethod
    def of(cls, group: list[tuple[Canvas, Mapping]], size: int, ignore_label: int) -> "Batch":
        """Fills a group of pictures up to `size`."""
        canvases = [canvas for canvas, _ in group]
        canvases += canvases[-1:] * (size - len(group))
        truth = np.full((size, *canvases[0].label_shape), ignore_label, np.int32)
        for target, (_, example) in zip(truth, group, strict=False):
            label = example["label"]
            target[: label.shape[0], : label.shape[1]] = label
        return cls([example for _, example in group], canvases, jnp.asarray(truth))

    def segment(
        self, model: Model, vocabulary: Vocabulary, protocol: Protocol, **options: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        """Segments the canvases on all devices of the process; as `inference.segment_canvases`."""
        mesh = local_mesh()
        return segment_canvases(model, vocabulary, self.canvases, protocol, mesh=mesh, **options)


def pictures_at_once(batch_size: int) -> int:
    """Those of a batch, of which each device of the process predicts `batch_size`."""
    return batch_size * local_mesh().size


class Judgement(NamedTuple):
    """What became of a batch.

    Attributes:
      predictions: class ids int32 [B, *label_shape].
      scores: float32 [B], fractions by which pictures are ranked; NaN for none.
    """

    predictions: jax.Array
    scores: jax.Array


def judge_pictures(
    judge: Callable[[Batch], Judgement],
    model: Model,
    examples: Iterable[Mapping[str, np.ndarray]],
    protocol: Protocol,
    *,
    batch_size: int,
    ignore_label: int,
    report_images: int = 0,
    total: int | None = None,
    alike: Callable[[Mapping], Hashable] = lambda example: None,
) -> tuple[int, dict[str, list[Example]]]:
    """Takes every picture through a judge once.

    Pictures may differ in size: they are regrouped into batches of one canvas shape, and the last
    batch of a shape is filled up with pictures whose labels are all ignored.

    Args:
      judge: predicts and counts a batch.
      model: the system, for its pixel statistics.
      examples: `image` uint8 [H, W, 3] and `label` int [H, W] of any sizes; those whose `valid` is
        False are left out.
      protocol: windows and sizes.
      batch_size: pictures that each device predicts at once.
      ignore_label: label of pixels that do not count.
      report_images: how many of the first pictures to return; of the best and the worst a few.
      total: number of pictures, for the progress bar.
      alike: what the pictures of a batch have in common besides their shapes.

    Returns:
      The number of pictures of all processes; and pictures by heading, those of this process.
    """
    from tqdm import tqdm  # writes to standard error

    gallery, batch_size = Gallery(report_images), pictures_at_once(batch_size)
    pictures, before = 0, None
    stream = tqdm(examples, total=total, unit="img", desc="evaluating", disable=None)
    for group in _groups(stream, protocol, batch_size, alike):
        batch = Batch.of(group, batch_size, ignore_label)
        judgement = judge(batch)
        pictures += len(group)
        # One batch runs while the host looks at the one before it and prepares the next; more
        # would only pile up pictures.
        if before:
            _offer(gallery, model, *before)
        before = batch, judgement
    if before:
        _offer(gallery, model, *before)
    return int(over_processes(np.array(pictures))), gallery.sections()


def _groups(
    examples: Iterable[Mapping], protocol: Protocol, batch_size: int, alike: Callable
) -> Iterator[list[tuple[Canvas, Mapping]]]:
    """Collects pictures of one canvas and one label shape.

    Incomplete groups come last, or earlier where the pictures of many shapes pile up.
    """
    waiting: dict[tuple, list] = {}
    for example in examples:
        if not example.get("valid", True):
            continue
        canvas = lay_on_canvas(example["image"], protocol)
        key = (canvas.pixels.shape, canvas.label_shape, alike(example))
        group = waiting.setdefault(key, [])
        group.append((canvas, example))
        if len(group) == batch_size:
            yield waiting.pop(key)
        elif sum(map(len, waiting.values())) > _WAITING * batch_size:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def _offer(gallery: Gallery, model: Model, batch: Batch, judgement: Judgement) -> None:
    """Shows a batch to the gallery; it waits for the scores, and fetches what the gallery takes."""
    # Scores of the pictures that only fill a batch up come last and are dropped.
    scores = map(float, 100 * np.asarray(judgement.scores))
    for index, (_, score) in enumerate(zip(batch.examples, scores, strict=False)):
        fetch = functools.partial(_example, model, batch, judgement.predictions, index, score)
        gallery.offer(score, fetch)


def _example(
    model: Model, batch: Batch, predictions: jax.Array, index: int, score: float
) -> Example:
    canvas = batch.canvases[index]
    height, width = canvas.original_size
    image = canvas.pixels[: canvas.size[0], : canvas.size[1]]
    if image.dtype != np.uint8:
        image = np.clip(image * model.std + model.mean, 0, 255).round().astype(np.uint8)
    if canvas.size != canvas.original_size:
        import cv2

        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    truth, prediction = (
        np.asarray(labels[index])[:height, :width] for labels in (batch.truth, predictions)
    )
    return Example(image, truth, prediction, score)
