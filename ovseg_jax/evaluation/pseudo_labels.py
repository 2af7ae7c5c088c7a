"""Labels for self-training: the truth where a class was seen, a prediction elsewhere.

The last step of zsseg (Xu et al., ECCV 2022, section 3.4): a trained segmenter labels its training
pictures with all names, and training starts again on these labels.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.loader import Loader
from data_pipelines.prepare.images import encode
from data_pipelines.sources.with_classes import REJECTED
from ovseg_jax import models
from ovseg_jax.devices import on_local_devices
from ovseg_jax.errors import UserError
from ovseg_jax.evaluation.loop import Batch, Judgement, judge_pictures
from ovseg_jax.evaluation.processes import over_processes
from ovseg_jax.evaluation.readouts import find_readout
from ovseg_jax.files import atomic_write
from ovseg_jax.inference import Protocol
from ovseg_jax.metrics.confusion import ConfusionState, confusion_matrix
from ovseg_jax.networks.mask_scores import pseudo_labels
from ovseg_jax.text.label_space import LabelSpace, load_label_space
from ovseg_jax.training.checkpoints import read_config
from ovseg_jax.training.logs import say


def label_training_pictures(
    run: Path, folder: Path, *, threshold: float = 0.0, prior: bool = True
) -> dict[str, float]:
    """Writes a label PNG for each training picture of a run; those that exist stay as they are.

    Args:
      run: a run folder.
      folder: to write; a file is named after its picture and holds the class indices of the run's
        label space, 255 where a prediction was rejected.
      threshold: least score of a prediction; 0 rejects none.
      prior: whether only unseen classes are predicted (their softmax is compared with the
        threshold), and not all classes.

    Returns:
      How good the new labels are against the truth: percentages as `mIoU`, `mIoU_unseen`, `hIoU`,
      and `pictures`.

    Raises:
      UserError: no run, a label space without unseen classes or with several names of a class, or
        a full disk.
    """
    config = ConfigDict(read_config(run))
    space = load_label_space(config.vocabulary.label_space)
    _check_space(space, run)
    model = on_local_devices(models.load_run(config, run))
    vocabulary = models.create_vocabulary(config, model, "all")
    protocol, classes = Protocol.from_config(config.eval), len(space)
    seen = jnp.asarray(np.isin(np.arange(classes), space.seen))
    options = dict(threshold=threshold, prior=prior, ignore_label=space.ignore_label)
    label = jax.jit(jax.vmap(functools.partial(pseudo_labels, **options), in_axes=(0, 0, None)))
    count = jax.jit(confusion_matrix, static_argnums=(2, 3))
    counts = ConfusionState(classes)

    def judge(batch: Batch) -> Judgement:
        _, scores = batch.segment(model, vocabulary, protocol, with_scores=True)
        labels = label(scores[..., :classes], batch.truth, seen)
        counts.update(count(batch.truth, labels, classes, space.ignore_label), labels.size)
        stored = np.asarray(jnp.where(labels < classes, labels, REJECTED), np.uint8)
        for example, canvas, new in zip(batch.examples, batch.canvases, stored, strict=False):
            height, width = canvas.original_size
            atomic_write(_place(folder, example), encode(new[:height, :width], ".png"))
        return Judgement(labels, jnp.full(len(labels), jnp.nan))

    loader = _create_loader(config)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, _ = judge_pictures(
        judge,
        model,
        _without_label(loader.examples(), folder),
        protocol,
        batch_size=config.eval.batch_size,
        ignore_label=space.ignore_label,
        total=len(loader.source),
    )
    if pictures < len(loader.source):
        say(f"{len(loader.source) - pictures} pictures had their labels in {folder} already")
    _, readout = find_readout("detectron2_legacy")
    means = readout.means(over_processes(counts.matrix), space.seen, space.unseen)
    return means | {"pictures": pictures}


def _check_space(space: LabelSpace, run: Path) -> None:
    if not space.unseen or any(len(words) > 1 for words in space.classes):
        raise UserError(
            f"self-training needs classes without masks and one name for each, but the label space "
            f"{space.name!r} of {run} has none or several; give another run."
        )
    if len(space) > REJECTED:
        raise UserError(
            f"{space.name!r} has {len(space)} classes, more than a label PNG can hold; give "
            "another run."
        )


def _create_loader(config: ConfigDict) -> Loader:
    """The pictures of the training split, once and as they are."""
    source = config.data.train.source.to_dict()
    if source["name"] == "with_classes":
        # Those without a seen class, too, which were no training pictures; by their true labels.
        source |= dict(subset="all", labels="")
    batch_size = config.eval.batch_size * jax.process_count()
    pictures = ConfigDict(dict(source=source, transforms=()))
    return models.create_loader(config, pictures, batch_size, shuffle=False)


def _place(folder: Path, example: Mapping) -> Path:
    return folder / f"{example['name']}.png"


def _without_label(examples: Iterator[Mapping], folder: Path) -> Iterator[Mapping]:
    return (example for example in examples if not _place(folder, example).exists())
