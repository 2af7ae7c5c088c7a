"""Pictures that are labelled with all classes: every pixel counts once."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from ovseg_jax.evaluation.loop import Batch, Judgement, judge_pictures
from ovseg_jax.evaluation.oracles import check_oracle, known
from ovseg_jax.evaluation.processes import over_processes
from ovseg_jax.evaluation.proposals import with_proposals
from ovseg_jax.evaluation.readouts import Readout, find_readout
from ovseg_jax.evaluation.results import describe_protocol
from ovseg_jax.inference import Model, Protocol
from ovseg_jax.metrics import mmseg
from ovseg_jax.metrics.boundary import boundary_confusion, boundary_distance
from ovseg_jax.metrics.confusion import ConfusionState, confusion_matrix, most_confused
from ovseg_jax.ops.masks import inside
from ovseg_jax.report.gallery import Example
from ovseg_jax.text.label_space import LabelSpace
from ovseg_jax.text.vocabulary import Vocabulary

_LISTED_CONFUSIONS = 20


def evaluate_segmentation(
    model: Model,
    vocabulary: Vocabulary,
    examples: Iterable[Mapping[str, np.ndarray]],
    label_space: LabelSpace,
    protocol: Protocol,
    *,
    metrics: str = "",
    oracle: str = "",
    boundary: float = 0.0,
    batch_size: int,
    report_images: int = 0,
    total: int | None = None,
) -> tuple[dict, dict[str, list[Example]]]:
    """Counts every pixel of a data set once and reads the scores off the counts.

    Args:
      model: the system.
      vocabulary: all classes, also those never seen in training (they compete).
      examples: `image` uint8 [H, W, 3] and `label` int [H, W] of any sizes; those whose `valid` is
        False are left out.
      label_space: the classes.
      protocol: windows and sizes.
      metrics: which of `READOUTS` gives the figures; '' = mmseg.
      oracle: one of `ORACLES`, or ''.
      boundary: width of boundaries over the diagonal of a picture, for Boundary IoU; 0 = none.
      batch_size: pictures that each device predicts at once.
      report_images: how many of the first pictures to return; of the best and the worst a few.
      total: number of pictures, for the progress bar.

    Returns:
      Percentages `mIoU`, `mIoU_seen`, `mIoU_unseen`, `hIoU`, `aAcc` and the like, with `IoU` by
      class name; with `boundary` also `boundary_mIoU`, over the classes with a boundary, and
      `boundary_IoU` by class name; `confusions` (the most frequent), `images` (their number) and
      `protocol`; and pictures by heading, in several processes those of this one.

    Raises:
      UserError: unknown metrics or oracle, metrics of episodes.
    """
    metrics, readout = find_readout(metrics)
    check_oracle(oracle)
    classes, ignore = len(label_space.names), label_space.ignore_label
    counts, edges = ConfusionState(classes), ConfusionState(classes)

    def judge(batch: Batch) -> Judgement:
        truth = batch.truth
        predictions, _ = batch.segment(
            model, vocabulary, protocol, **known(oracle, truth, classes, ignore)
        )
        matrix, scores = _count(truth, predictions, classes, ignore)
        counts.update(matrix, truth.size)
        if boundary:
            sizes = np.array([canvas.original_size for canvas in batch.canvases], np.int32)
            widths = np.array([boundary_distance(size, boundary) for size in sizes], np.int32)
            matrix = _count_boundaries(truth, predictions, sizes, widths, classes, ignore)
            edges.update(matrix, truth.size)
        return Judgement(predictions, scores)

    images, shown = judge_pictures(
        judge,
        model,
        examples,
        protocol,
        batch_size=batch_size,
        ignore_label=ignore,
        report_images=report_images,
        total=total,
    )
    # The first pictures alone: the others are there to be compared with these.
    shown["Pictures"] = with_proposals(model, vocabulary, shown["Pictures"], protocol)
    result = _scores(over_processes(counts.matrix), label_space, readout)
    if boundary:
        result |= _boundary_scores(over_processes(edges.matrix), label_space)
    return result | {
        "images": images,
        "protocol": describe_protocol(label_space, protocol)
        | {
            "metrics": metrics,
            "absent_classes": readout.absent_classes,
            "oracle": oracle,
            "boundary": boundary,
        },
    }, shown


@functools.partial(jax.jit, static_argnums=(2, 3))
def _count(
    truth: jax.Array, predictions: jax.Array, classes: int, ignore_label: int
) -> tuple[jax.Array, jax.Array]:
    """Counts of a batch int32 [C + 1, C + 1], and the mIoU of each picture float32 [B]."""
    count = functools.partial(confusion_matrix, num_classes=classes, ignore_label=ignore_label)
    matrices = jax.vmap(count)(truth, predictions)
    return matrices.sum(axis=0), mmseg.picture_mean_iou(matrices)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _count_boundaries(
    truth: jax.Array,
    predictions: jax.Array,
    sizes: jax.Array,
    widths: jax.Array,
    classes: int,
    ignore_label: int,
) -> jax.Array:
    """Counts int32 [C + 1, C + 1] of the boundaries of a batch of pictures of given sizes."""
    shown = inside(sizes, truth.shape[1:])
    return boundary_confusion(
        truth, predictions, classes, ignore_label, distance=widths, inside=shown
    )


def _scores(matrix: np.ndarray, label_space: LabelSpace, readout: Readout) -> dict:
    return readout.means(matrix, label_space.seen, label_space.unseen) | {
        "IoU": _by_name(label_space, readout.scores(matrix)["IoU"]),
        "confusions": _confusions(matrix, label_space.unique_names),
    }


def _boundary_scores(matrix: np.ndarray, label_space: LabelSpace) -> dict:
    # Here the last row and column belong to the unions, as mmsegmentation's rule has it.
    iou = mmseg.scores(matrix)["IoU"]
    return {
        "boundary_mIoU": mmseg.mean_percent(iou),
        "boundary_IoU": _by_name(label_space, iou),
    }


def _by_name(label_space: LabelSpace, fractions: np.ndarray) -> dict[str, float]:
    """Percentages by class name."""
    return dict(zip(label_space.unique_names, map(float, 100 * fractions), strict=True))


def _confusions(matrix: np.ndarray, names: Sequence[str]) -> list[dict]:
    """The most frequent errors, with their share of the true class in percent."""
    labelled = mmseg.areas(matrix).label
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "pixels": pixels,
            "share": 100 * pixels / int(labelled[true]),
        }
        for true, predicted, pixels in most_confused(matrix, _LISTED_CONFUSIONS)
    ]
