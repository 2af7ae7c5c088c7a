"""Episodes: pictures that ask for one class each, as few-shot and zero-shot folds list them.

Where a system's scores are probabilities of a name alone, the pixels above one half, or those that
reach another threshold, are the foreground (Fusioner's rule); else the name competes with words for
everything else, such as LSeg's "others". The classes that a batch asks for are data: one program
serves all of them.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from ovseg_jax.decisions import BACKGROUND
from ovseg_jax.evaluation.loop import Batch, Judgement, judge_pictures, pictures_at_once
from ovseg_jax.evaluation.processes import over_processes
from ovseg_jax.evaluation.readouts import EPISODE_READOUTS, EpisodeReadout, find_readout
from ovseg_jax.evaluation.results import describe_protocol
from ovseg_jax.inference import Model, Protocol
from ovseg_jax.metrics import few_shot
from ovseg_jax.report.gallery import Example
from ovseg_jax.text.label_space import LabelSpace, add_background
from ovseg_jax.text.vocabulary import Vocabulary

_VOID = 255  # in the masks of a source
_IGNORED = -1  # here, where 255 may be a class
# The foreground is what exceeds one half; one half itself does not.
_ABOVE_HALF = float(np.nextafter(np.float32(0.5), np.float32(1)))


def episode_space(space: LabelSpace, fold: Sequence[int], words: Sequence[str]) -> LabelSpace:
    """The classes behind a background in front; those of the fold are the unseen ones.

    Args:
      space: the classes of all folds.
      fold: those that episodes ask for.
      words: what the background is called.
    """
    seen = tuple(index for index in range(len(space)) if index not in set(fold))
    return add_background(dataclasses.replace(space, seen=seen, unseen=tuple(fold)), words)


def with_background(space: LabelSpace) -> LabelSpace:
    """A space of `episode_space` whose subset 'unseen' is all that episodes need words for."""
    return dataclasses.replace(space, unseen=(BACKGROUND, *space.unseen))


def evaluate_episodes(
    model: Model,
    vocabulary: Vocabulary,
    examples: Iterable[Mapping[str, np.ndarray]],
    space: LabelSpace,
    protocol: Protocol,
    *,
    metrics: str = "",
    batch_size: int,
    report_images: int = 0,
    total: int | None = None,
) -> tuple[dict, dict[str, list[Example]]]:
    """Finds the class that each picture asks for and reads scores off the counts by class.

    Args:
      model: the system.
      vocabulary: background and fold of `space`.
      examples: `image` uint8 [H, W, 3], `label` [H, W] (1 = the class, 0 = not, 255 = does not
        count) and `class_id`, from 0; those whose `valid` is False are left out.
      space: from `episode_space`.
      protocol: windows and sizes. Where scores are probabilities, what reaches its threshold is
        the class (without one: what exceeds one half); elsewhere neither its threshold nor its
        rule about small areas, both made for pictures of many classes, applies.
      metrics: which of `EPISODE_READOUTS` gives the figures; '' = fusioner.
      batch_size: pictures that each device predicts at once.
      report_images: how many of the first pictures to return; of the best and the worst a few.
      total: number of episodes, for the progress bar.

    Returns:
      Percentages `mIoU` and `FB-IoU`, `IoU` by the names of the fold's classes, `images` (the
      number of episodes) and `protocol`; and pictures by heading, in several processes those of
      this one.

    Raises:
      UserError: unknown metrics, or those of pictures that are labelled with all classes.
    """
    metrics, readout = find_readout(metrics, EPISODE_READOUTS)
    system = model.system()
    alone = system.scores_are_probabilities
    if not alone:
        protocol = dataclasses.replace(protocol, threshold=0.0, area=0.0)
    elif not protocol.threshold:
        protocol = dataclasses.replace(protocol, threshold=_ABOVE_HALF)
    together = pictures_at_once(batch_size) if system.independent_names else 1
    words = _Words(vocabulary, together, with_background=not alone)
    found: list[tuple[np.ndarray, dict[str, jax.Array]]] = []

    def judge(batch: Batch) -> Judgement:
        asked = [example["class_id"] for example in batch.examples]
        everywhere = np.pad(asked, (0, len(batch.canvases) - len(asked)), mode="edge")
        candidates = everywhere[:, None] == np.arange(len(space))
        candidates[:, BACKGROUND] = True
        predictions, _ = batch.segment(model, words.of(asked), protocol, candidates=candidates)
        counted = _count(batch.truth, predictions)
        found.append((np.asarray(asked), counted))
        return Judgement(predictions, counted["iou"])

    images, shown = judge_pictures(
        judge,
        model,
        map(_in_space, examples),
        protocol,
        batch_size=batch_size,
        ignore_label=_IGNORED,
        report_images=report_images,
        total=total,
        alike=lambda example: None if system.independent_names else example["class_id"],
    )
    counts = few_shot.Counts(*map(over_processes, _sum(found, len(space), readout)))
    return _scores(counts, space, readout) | {
        "images": images,
        "protocol": describe_protocol(space, protocol)
        | {
            "metrics": metrics,
            "absent_classes": readout.absent_classes,
            "oracle": "",
            "foreground": "reaches the threshold" if alone else "beats the background",
        },
    }, shown


class _Words:
    """The rows of a vocabulary that a batch needs, always as many."""

    def __init__(self, vocabulary: Vocabulary, classes: int, with_background: bool):
        """Takes a vocabulary.

        Args:
          vocabulary: of background and classes.
          classes: how many of them a batch asks for at most.
          with_background: whether the background is a name like others.
        """
        self._all = jax.tree.map(np.asarray, vocabulary)
        ids = self._all.class_ids
        self._rows = {int(k): np.flatnonzero(ids == k) for k in np.unique(ids[ids >= 0])}
        own = self._rows.pop(BACKGROUND)
        self._background = own if with_background else own[:0]
        most = max(map(len, self._rows.values()))
        self._count = len(self._background) + classes * most

    def of(self, class_ids: Sequence[int]) -> Vocabulary:
        """The names of the background, first, and of some classes, each once."""
        rows = [self._background, *(self._rows[k] for k in dict.fromkeys(class_ids))]
        rows = np.concatenate(rows)
        real = np.arange(self._count) < len(rows)
        rows = np.resize(rows, self._count)
        return Vocabulary(
            self._all.embeddings[rows],
            np.where(real, self._all.class_ids[rows], -1),
            self._all.seen[rows],
        )


def _in_space(example: Mapping) -> dict:
    """The episode as a picture that is labelled with background and the class asked for."""
    asked, mask = 1 + int(example["class_id"]), example["label"]
    label = np.select([mask == 1, mask == _VOID], [asked, _IGNORED], BACKGROUND)
    return {**example, "label": label.astype(np.int32), "class_id": asked}


@jax.jit
def _count(truth: jax.Array, predictions: jax.Array) -> dict[str, jax.Array]:
    """Counts of each episode, int32 [B, 2], and more: `filled` bool [B], `iou` float32 [B]."""
    target = truth > BACKGROUND
    counts = few_shot.episode_counts(predictions > BACKGROUND, target, truth == _IGNORED)
    iou = counts.intersection[:, 1] / counts.union[:, 1]
    return {**counts._asdict(), "filled": target.any(axis=(1, 2)), "iou": iou}


def _sum(
    found: Iterable[tuple[np.ndarray, dict[str, jax.Array]]], classes: int, readout: EpisodeReadout
) -> few_shot.Counts:
    """Sums the counts of this process by class, int64 [C, 2] each."""
    total = few_shot.Counts(*np.zeros((2, classes, 2), np.int64))
    for asked, counted in found:
        # Those that only fill a batch up come last.
        counted = {name: np.asarray(values)[: len(asked)] for name, values in counted.items()}
        counts = few_shot.Counts(counted["intersection"], counted["union"])
        scored = counted["filled"] if readout.skips_empty else None
        part = few_shot.sum_by_class(counts, asked, classes, scored)
        total = few_shot.Counts(*map(np.add, total, part))
    return total


def _scores(counts: few_shot.Counts, space: LabelSpace, readout: EpisodeReadout) -> dict:
    iou = 100 * few_shot.class_iou(counts, readout.absent_iou)
    names = space.unique_names
    means = readout.means(counts, space.unseen)
    return means | {"IoU": {names[index]: float(iou[index]) for index in space.unseen}}
