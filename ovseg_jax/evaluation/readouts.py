"""The rules by which figures are read off counts, by the names of `config.eval.metrics`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.metrics import detectron2, few_shot, mmseg, zero_shot


class Readout(NamedTuple):
    """How figures are read off a confusion matrix.

    Attributes:
      means: matrix, seen and unseen classes -> percentages by name.
      scores: matrix -> fractions per class, with `IoU` among them.
      absent_classes: what becomes of classes without a labelled pixel.
    """

    means: Callable[[np.ndarray, Sequence[int], Sequence[int]], dict[str, float]]
    scores: Callable[[np.ndarray], dict[str, np.ndarray]]
    absent_classes: str


class EpisodeReadout(NamedTuple):
    """How figures are read off the counts of episodes, which ask for one class each.

    Attributes:
      means: counts [C, 2] and the fold's classes -> percentages by name.
      absent_iou: IoU of a class without a foreground pixel.
      skips_empty: whether episodes without a foreground pixel in their target do not count.
      absent_classes: what becomes of classes without an episode.
    """

    means: Callable[[few_shot.Counts, Sequence[int]], dict[str, float]]
    absent_iou: float
    skips_empty: bool
    absent_classes: str


READOUTS = {
    "mmseg": Readout(
        zero_shot.seen_unseen,
        mmseg.scores,
        "0/0 is left out of the means, predicted but never labelled is 0",
    ),
    "detectron2_legacy": Readout(
        functools.partial(detectron2.seen_unseen, rule="legacy"),
        detectron2.scores,
        "predicted but never labelled is 0 in mIoU, otherwise left out",
    ),
    "detectron2_current": Readout(
        functools.partial(detectron2.seen_unseen, rule="current"),
        detectron2.scores,
        "never labelled is left out of the means",
    ),
}

EPISODE_READOUTS = {
    "fusioner": EpisodeReadout(
        lambda counts, fold: few_shot.fusioner(counts),
        absent_iou=np.nan,
        skips_empty=True,
        absent_classes="without foreground in target and prediction is left out of the means",
    ),
    "hsnet": EpisodeReadout(
        few_shot.hsnet,
        absent_iou=0.0,
        skips_empty=False,
        absent_classes="without an episode is 0",
    ),
}


def find_readout(
    metrics: str, readouts: Mapping[str, Readout] | Mapping[str, EpisodeReadout] = READOUTS
) -> tuple[str, Readout | EpisodeReadout]:
    """The read-out that `config.eval.metrics` names.

    Args:
      metrics: its name; '' is the first of those that go with the data.
      readouts: those: `READOUTS` for pixels of all classes, `EPISODE_READOUTS` for episodes.

    Returns:
      Its name and itself.

    Raises:
      UserError: an unknown name, or one that goes with other data.
    """
    metrics = metrics or next(iter(readouts))
    if metrics in readouts:
        return metrics, readouts[metrics]
    if metrics not in READOUTS | EPISODE_READOUTS:
        names = " or ".join((*READOUTS, *EPISODE_READOUTS))
        raise UserError(f"unknown metrics {metrics!r}; config.eval.metrics is {names}.")
    kinds = ("pictures that are labelled with all classes", "episodes of one class each")
    own, other = kinds if readouts is READOUTS else kinds[::-1]
    raise UserError(
        f"metrics {metrics!r} are for {other}, and this data set has {own}; set "
        f"config.eval.metrics to {' or '.join(readouts)}."
    )
