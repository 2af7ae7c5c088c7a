"""The evaluation loops: pixels of a segmenter, ranks of an image-text model."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ovseg_jax import models
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.inference import Canvas, Model, Protocol, lay_on_canvas, segment_canvases
from ovseg_jax.metrics import detectron2, mmseg, zero_shot
from ovseg_jax.metrics.confusion import ConfusionState, confusion_matrix, most_confused
from ovseg_jax.ops.images import normalize
from ovseg_jax.params import digest
from ovseg_jax.report.gallery import Example, Gallery
from ovseg_jax.report.html import write_report
from ovseg_jax.text.label_space import LabelSpace, load_label_space
from ovseg_jax.text.templates import load_templates
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.checkpoints import choose_step
from ovseg_jax.training.logs import say

Encode = Callable[[np.ndarray], jax.Array]

_LISTED_CONFUSIONS = 20


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


def create_readout(name: str) -> Readout:
    """The read-out that `config.eval.metrics` names.

    Raises:
      UserError: an unknown name.
    """
    if name not in READOUTS:
        raise UserError(
            f"unknown metrics {name!r}; config.eval.metrics is {' or '.join(READOUTS)}."
        )
    return READOUTS[name]


def evaluate_run(config: ConfigDict, workdir: str | Path, checkpoint: str = "latest") -> dict:
    """Evaluates what a run folder holds; leaves ``result.json`` and ``report/`` in it.

    With `config.eval.dataset` it is evaluated on that data set, and they are called
    ``result_<dataset>.json`` and ``report_<dataset>/``. With `config.eval.training_free` the dense
    read-out of the same CLIP, which saw no mask, is evaluated too: what was there before training.

    Args:
      config: the whole recipe.
      workdir: the run folder.
      checkpoint: 'latest', or 'previous' where the latest is damaged.

    Raises:
      UserError: nothing was trained there, an architecture other than the config's, a full disk.
    """
    workdir = Path(workdir)
    model = models.load_run(config, workdir, checkpoint)
    suffix = f"_{config.eval.dataset}" if config.eval.dataset else ""
    config = models.on_dataset(config)
    result, shown = evaluate_model(config, model)
    result["protocol"]["checkpoint"] = choose_step(workdir, checkpoint)
    if warning := models.model_notes(workdir).get("warning"):
        result["warning"] = warning
    if config.eval.training_free:
        before, _ = evaluate_model(*models.training_free(config, model))
        result["training_free"] = before
    if jax.process_index() == 0:
        space = load_label_space(config.vocabulary.label_space)
        names = space.unique_names
        path = write_result(workdir / f"result{suffix}.json", result)
        title = f"{config.system.name} on {config.vocabulary.label_space}"
        page = write_report(workdir / f"report{suffix}", result, shown, names, space.unseen, title)
        say(f"{summary_table(result)}\nfigures: {path}\npictures: {page}")
    return result


def summary_table(result: Mapping) -> str:
    """The means of a result as a short table, before and after training where both are known."""
    columns = ("mIoU", "mIoU_seen", "mIoU_unseen", "hIoU", "aAcc")
    rows = {"training-free": result.get("training_free"), "trained": result}
    lines = [
        f"{result['images']} pictures, percent",
        " " * 14 + "".join(f"{c:>13}" for c in columns),
    ]
    lines += [
        f"{name:14}" + "".join(f"{row.get(column, math.nan):13.2f}" for column in columns)
        for name, row in rows.items()
        if row
    ]
    for group in ("retrieval", "zero_shot"):
        figures = (f"{key} {value:.2f}" for key, value in result.get(group, {}).items())
        if group in result:
            lines.append(f"{group}: {', '.join(figures)}")
    if "warning" in result:
        lines.append(f"warning: {result['warning']}")
    return "\n".join(lines)


def evaluate_model(config: ConfigDict, model: Model) -> tuple[dict, dict[str, list[Example]]]:
    """Evaluates a model by the `eval` and `data` sections of a config.

    `data.eval` gives the figures of `evaluate_segmentation`; `data.retrieval` and `data.zero_shot`,
    where the config has them, those of `evaluate_retrieval` and `evaluate_zero_shot`.

    Returns:
      The result of `evaluate_segmentation` with the rest of the protocol, and pictures to show, by
      heading.
    """
    load = functools.partial(
        models.create_loader,
        config,
        batch_size=config.eval.batch_size,
        shuffle=False,
        drop_remainder=False,
    )
    loader = load(config.data.eval)
    vocabulary = models.create_vocabulary(config, model, "all")
    space = load_label_space(config.vocabulary.label_space)
    result, shown = evaluate_segmentation(
        model,
        vocabulary,
        loader.examples(),
        space,
        Protocol.from_config(config.eval),
        metrics=config.eval.metrics,
        batch_size=config.eval.batch_size,
        report_images=config.eval.report_images,
        total=len(loader.source),
    )
    encode_image, encode_text = clip_encoders(model)
    if "retrieval" in config.data:
        batches = load(config.data.retrieval).epoch()
        result["retrieval"] = evaluate_retrieval(encode_image, encode_text, batches)
    if "zero_shot" in config.data:
        batches = load(config.data.zero_shot).epoch()
        result["zero_shot"] = evaluate_zero_shot(encode_image, vocabulary, batches, space.unseen)
    result["protocol"] |= {
        "system": config.system.name,
        "templates": list(load_templates(config.vocabulary.templates)),
        "data": config.data.eval.source.to_dict(),
        "transforms": [dict(step) for step in config.data.eval.transforms],
        "weights": digest(model.params),
    }
    return result, shown


def clip_encoders(model: Model) -> tuple[Encode, Encode]:
    """The two towers of a CLIP system: uint8 images -> [B, E], tokens -> [B, E]."""
    return functools.partial(_encode_image, model), functools.partial(_encode_text, model)


@jax.jit
def _encode_image(model: Model, image: jax.Array) -> jax.Array:
    return model.system().clip.encode_image(normalize(image, model.mean, model.std))


@jax.jit
def _encode_text(model: Model, tokens: jax.Array) -> jax.Array:
    return model.system().clip.encode_text(tokens)


def evaluate_segmentation(
    model: Model,
    vocabulary: Vocabulary,
    examples: Iterable[Mapping[str, np.ndarray]],
    label_space: LabelSpace,
    protocol: Protocol,
    *,
    metrics: str = "mmseg",
    batch_size: int,
    report_images: int = 0,
    total: int | None = None,
) -> tuple[dict, dict[str, list[Example]]]:
    """Counts every pixel of a data set once and reads the scores off the counts.

    Pictures may differ in size: they are regrouped into batches of one canvas shape, and the last
    batch of a shape is filled up with pictures whose labels are all ignored.

    Args:
      model: the system.
      vocabulary: all classes, also those never seen in training (they compete).
      examples: `image` uint8 [H, W, 3] and `label` int [H, W] of any sizes; those whose `valid` is
        False are left out.
      label_space: the classes.
      protocol: windows and sizes.
      metrics: which of `READOUTS` gives the figures.
      batch_size: pictures that are predicted at once.
      report_images: how many of the first pictures to return; of the best and the worst a few.
      total: number of pictures, for the progress bar.

    Returns:
      Percentages `mIoU`, `mIoU_seen`, `mIoU_unseen`, `hIoU`, `aAcc` and the like, with `IoU` by
      class name, `confusions` (the most frequent), `images` (their number) and `protocol`; and
      pictures by heading, in several processes those of this one.

    Raises:
      UserError: unknown metrics.
    """
    readout = create_readout(metrics)
    from tqdm import tqdm  # writes to standard error

    classes = len(label_space.names)
    counts = ConfusionState(classes)
    gallery = Gallery(report_images)
    images, previous = 0, ((), (), ())
    stream = tqdm(examples, total=total, unit="img", desc="evaluating", disable=None)
    for group in _groups(stream, protocol, batch_size):
        canvases = _fill([canvas for canvas, _ in group], batch_size)
        truth = _padded_labels([label for _, label in group], canvases, label_space.ignore_label)
        predictions, _ = segment_canvases(model, vocabulary, canvases, protocol)
        matrix, scores = _count(truth, predictions, classes, label_space.ignore_label)
        counts.update(matrix, truth.size)
        images += len(group)
        # One batch runs while the host looks at the one before it and prepares the next; more
        # would only pile up pictures.
        _offer(gallery, model, *previous)
        previous = group, predictions, scores
    _offer(gallery, model, *previous)
    matrix = _over_processes(counts.matrix)
    images = int(_over_processes(np.array(images)))
    return _scores(matrix, label_space, readout) | {
        "images": images,
        "protocol": _protocol(label_space, protocol)
        | {"metrics": metrics, "absent_classes": readout.absent_classes},
    }, gallery.sections()


@functools.partial(jax.jit, static_argnums=(2, 3))
def _count(
    truth: jax.Array, predictions: jax.Array, classes: int, ignore_label: int
) -> tuple[jax.Array, jax.Array]:
    """Counts of a batch int32 [C + 1, C + 1], and the mIoU of each picture float32 [B]."""
    count = functools.partial(confusion_matrix, num_classes=classes, ignore_label=ignore_label)
    matrices = jax.vmap(count)(truth, predictions)
    return matrices.sum(axis=0), mmseg.picture_mean_iou(matrices)


def _offer(
    gallery: Gallery,
    model: Model,
    group: Sequence[tuple[Canvas, np.ndarray]],
    predictions: jax.Array,
    scores: jax.Array,
) -> None:
    """Shows a batch to the gallery; it waits for the scores, and fetches what the gallery takes."""
    # Scores of the pictures that only fill a batch up come last and are dropped.
    pairs = zip(group, 100 * np.asarray(scores), strict=False)
    for index, ((canvas, label), score) in enumerate(pairs):
        fetch = functools.partial(_example, model, canvas, label, predictions, index, float(score))
        gallery.offer(float(score), fetch)


def _over_processes(counts: np.ndarray) -> np.ndarray:
    """Sums int64 counts over all processes, in two halves because device arrays have 32 bits."""
    if jax.process_count() == 1:
        return counts
    from jax.experimental import multihost_utils

    halves = np.stack([counts >> 31, counts & (2**31 - 1)]).astype(np.int32)
    parts = np.asarray(multihost_utils.process_allgather(halves), np.int64)
    return ((parts[:, 0] << 31) + parts[:, 1]).sum(axis=0)


def _groups(
    examples: Iterable[Mapping[str, np.ndarray]], protocol: Protocol, batch_size: int
) -> Iterator[list[tuple[Canvas, np.ndarray]]]:
    """Collects pictures of one canvas and one label shape; the incomplete groups come last."""
    waiting: dict[tuple, list] = {}
    for example in examples:
        if not example.get("valid", True):
            continue
        canvas = lay_on_canvas(example["image"], protocol)
        key = (canvas.pixels.shape, canvas.label_shape)
        group = waiting.setdefault(key, [])
        group.append((canvas, example["label"]))
        if len(group) == batch_size:
            yield waiting.pop(key)
    yield from waiting.values()


def _fill(canvases: list[Canvas], count: int) -> list[Canvas]:
    return canvases + canvases[-1:] * (count - len(canvases))


def _padded_labels(
    labels: Sequence[np.ndarray], canvases: Sequence[Canvas], ignore_label: int
) -> np.ndarray:
    """Labels on the shape of the predictions: int32 [B, h, w], ignored beyond the pictures."""
    padded = np.full((len(canvases), *canvases[0].label_shape), ignore_label, np.int32)
    for target, label in zip(padded, labels, strict=False):
        target[: label.shape[0], : label.shape[1]] = label
    return padded


def _example(
    model: Model,
    canvas: Canvas,
    label: np.ndarray,
    predictions: jax.Array,
    index: int,
    score: float,
) -> Example:
    height, width = canvas.original_size
    image = canvas.pixels[: canvas.size[0], : canvas.size[1]]
    if image.dtype != np.uint8:
        image = np.clip(image * model.std + model.mean, 0, 255).round().astype(np.uint8)
    if canvas.size != canvas.original_size:
        import cv2

        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    prediction = np.asarray(predictions[index])[:height, :width]
    return Example(image, np.asarray(label, np.int32), prediction, score)


def _scores(matrix: np.ndarray, label_space: LabelSpace, readout: Readout) -> dict:
    iou = 100 * readout.scores(matrix)["IoU"]
    means = readout.means(matrix, label_space.seen, label_space.unseen)
    return means | {
        "IoU": dict(zip(label_space.unique_names, map(float, iou), strict=True)),
        "confusions": _confusions(matrix, label_space.unique_names),
    }


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


def _protocol(label_space: LabelSpace, protocol: Protocol) -> dict:
    names, background = label_space.unique_names, label_space.background
    return {
        "label_space": label_space.name,
        "classes": list(names),
        # Lists where a class has several: a single query may hold commas.
        "queries": [words[0] if len(words) == 1 else list(words) for words in label_space.classes],
        "seen": [names[index] for index in label_space.seen],
        "unseen": [names[index] for index in label_space.unseen],
        "background": None if background is None else names[background],
        "ignore_label": label_space.ignore_label,
        **dataclasses.asdict(protocol),
    }


def write_result(path: Path, result: Mapping) -> Path:
    """Writes figures as JSON, whole or not at all; NaN becomes null, as JSON has no NaN.

    Returns:
      The path of the file.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    text = json.dumps(_without_nan(result), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text.encode() + b"\n")
    return path


def _without_nan(value):
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return value


def evaluate_retrieval(
    encode_image: Encode,
    encode_text: Encode,
    batches: Iterable[Mapping[str, np.ndarray]],
    ranks: Sequence[int] = (1, 5),
) -> dict:
    """Finds the picture of each caption among all pictures.

    Args:
      encode_image: images [B, H, W, 3] as the batches hold them -> [B, E].
      encode_text: tokens int32 [B, L] -> [B, E].
      batches: `image` and `text`; examples whose `valid` is False are left out.
      ranks: the k of recall at k.

    Returns:
      Percentages `R@1`, `R@5`, … and `pictures`, among how many. A picture whose caption has the
      same words is as right as the caption's own.
    """
    batches = list(map(_valid_features(encode_image, encode_text), batches))
    images, texts, tokens = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    similarity = texts @ images.T  # [captions, pictures]
    _, words = np.unique(tokens, axis=0, return_inverse=True)
    same = words[:, None] == words
    best = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
    # Ties count against the model: equal features of all pictures must not be perfect recall.
    before = ((similarity >= best) & ~same).sum(axis=1)
    return {f"R@{k}": 100 * float((before < k).mean()) for k in ranks} | {"pictures": len(images)}


def _valid_features(encode_image: Encode, encode_text: Encode):
    def features(batch):
        valid = np.asarray(batch.get("valid", np.ones(len(batch["image"]), bool)))
        image, text = encode_image(batch["image"]), encode_text(batch["text"])
        return _unit(image)[valid], _unit(text)[valid], np.asarray(batch["text"])[valid]

    return features


def evaluate_zero_shot(
    encode_image: Encode,
    vocabulary: Vocabulary,
    batches: Iterable[Mapping[str, np.ndarray]],
    unseen: Sequence[int] = (),
) -> dict:
    """Names the one object of each picture.

    The names of the objects compete: a picture also shows what the object lies on, and with all
    names in the list that is a true answer as well.

    Args:
      encode_image: as in `evaluate_retrieval`.
      vocabulary: the names.
      batches: `image` and `class_id` int [B]; examples whose `valid` is False are left out.
      unseen: classes whose accuracy is given apart too.

    Returns:
      Percentages `accuracy`, `accuracy_unseen` (NaN without such pictures) and, with all names in
      the list, `accuracy_all_names`; `pictures`.
    """
    ids = np.asarray(vocabulary.class_ids)
    rows, ids = np.asarray(vocabulary.embeddings)[ids >= 0], ids[ids >= 0]
    scores, truths = [], []
    for batch in batches:
        valid = np.asarray(batch.get("valid", np.ones(len(batch["image"]), bool)))
        scores.append((_unit(encode_image(batch["image"])) @ rows.T)[valid])  # [B, N]
        truths.append(np.asarray(batch["class_id"])[valid])
    scores, truth = np.concatenate(scores), np.concatenate(truths)
    objects = np.isin(ids, truth)
    hit = ids[objects][scores[:, objects].argmax(axis=1)] == truth
    new = np.isin(truth, unseen)
    return {
        "accuracy": 100 * float(hit.mean()),
        "accuracy_unseen": 100 * float(hit[new].mean()) if new.any() else float("nan"),
        "accuracy_all_names": 100 * float((ids[scores.argmax(axis=1)] == truth).mean()),
        "pictures": len(hit),
    }


def _unit(features: jax.Array) -> np.ndarray:
    features = jnp.asarray(features, jnp.float32)
    return np.asarray(features / jnp.linalg.norm(features, axis=-1, keepdims=True))
