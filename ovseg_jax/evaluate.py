"""The evaluation of a run: which loop its data ask for, and what is left in its folder.

The loops are in `evaluation/`: pixels of a segmenter, episodes of one class each, ranks of an
image-text model.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.sources.class_masks import ClassMasks
from ovseg_jax import models
from ovseg_jax.devices import on_local_devices
from ovseg_jax.errors import UserError
from ovseg_jax.evaluation.episodes import episode_space, evaluate_episodes, with_background
from ovseg_jax.evaluation.oracles import check_oracle
from ovseg_jax.evaluation.pixels import evaluate_segmentation
from ovseg_jax.evaluation.processes import over_processes
from ovseg_jax.evaluation.readouts import EPISODE_READOUTS, READOUTS, find_readout
from ovseg_jax.evaluation.regions import count_regions, region_figures
from ovseg_jax.evaluation.results import summary_table, write_result
from ovseg_jax.evaluation.whole_pictures import (
    clip_encoders,
    evaluate_retrieval,
    evaluate_zero_shot,
)
from ovseg_jax.inference import Model, Protocol
from ovseg_jax.params import digest
from ovseg_jax.report.gallery import Example
from ovseg_jax.report.html import write_report
from ovseg_jax.text.label_space import load_label_space
from ovseg_jax.text.templates import load_templates
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.checkpoints import choose_step
from ovseg_jax.training.logs import say

Words = Callable[[], Vocabulary]  # all classes of the config


def evaluate_run(config: ConfigDict, workdir: str | Path, checkpoint: str = "latest") -> dict:
    """Evaluates what a run folder holds; leaves ``result.json`` and ``report/`` in it.

    With `config.eval.dataset` it is evaluated on that data set, and they are called
    ``result_<dataset>.json`` and ``report_<dataset>/``; the name of an oracle follows, and for
    episodes that of the metrics, if given. With `config.eval.training_free` the dense read-out of
    the same CLIP, which saw no mask, is evaluated too: what was there before training.

    Args:
      config: the whole recipe.
      workdir: the run folder.
      checkpoint: 'latest', or 'previous' where the latest is damaged.

    Raises:
      UserError: nothing was trained there, an architecture other than the config's, a full disk,
        or what `check_evaluation` finds.
    """
    workdir = Path(workdir)
    model = models.load_run(config, workdir, checkpoint)
    config = models.on_dataset(config)
    result, shown = evaluate_model(config, model)
    protocol = result["protocol"]
    protocol["checkpoint"] = choose_step(workdir, checkpoint)
    if warning := models.model_notes(workdir).get("warning"):
        result["warning"] = warning
    # A read-out proposes no masks that the truth could name.
    if config.eval.training_free and config.eval.oracle != "proposals":
        before, _ = evaluate_model(*models.training_free(config, model))
        result["training_free"] = before
    if jax.process_index() == 0:
        suffix = _suffix(config, protocol)
        path = write_result(workdir / f"result{suffix}.json", result)
        names = protocol["classes"]
        unseen = [names.index(name) for name in protocol["unseen"]]
        title = f"{config.system.name} on {config.vocabulary.label_space}"
        page = write_report(workdir / f"report{suffix}", result, shown, names, unseen, title)
        say(f"{summary_table(result)}\nfigures: {path}\npictures: {page}")
    return result


def _suffix(config: ConfigDict, protocol: Mapping) -> str:
    """Keeps apart in one folder what was measured on other data or by other rules."""
    parts = [config.eval.dataset, config.eval.oracle]
    if "foreground" in protocol:  # each metrics of episodes goes through its own list
        parts.append(config.eval.metrics)
    return "".join(f"_{part}" for part in parts if part)


def check_evaluation(config: ConfigDict) -> None:
    """Finds mistakes in the sections `eval` and `data` before a model is at work.

    Raises:
      UserError: unreadable data, metrics that are unknown or do not go with them, an oracle or
        boundaries where there is no label of all pixels, an unknown oracle or one that the system
        does not go with, a width of boundaries out of range, no words for the background of
        episodes.
    """
    _check(config, _create_loader(config))


def _check(config: ConfigDict, loader) -> None:
    check_oracle(config.eval.oracle)
    if not 0 <= config.eval.boundary < 1:
        raise UserError(
            f"config.eval.boundary is {config.eval.boundary}, but a share of the diagonal is at "
            "least 0 and less than 1; 0.02 is usual."
        )
    if config.eval.oracle == "proposals" and not models.abstract_system(config).proposes_masks:
        raise UserError(
            f"config.eval.oracle='proposals' names proposed masks, and {config.system.name} "
            "proposes none; take 'vocabulary' or 'masks'."
        )
    episodes = _has_episodes(loader)
    find_readout(config.eval.metrics, EPISODE_READOUTS if episodes else READOUTS)
    if episodes and (config.eval.oracle or config.eval.boundary):
        raise UserError(
            "oracles and Boundary IoU need pictures that are labelled with all classes, and "
            "this data set has episodes of one class each; leave config.eval.oracle and "
            "config.eval.boundary out."
        )
    if episodes and not config.eval.background_words:
        raise UserError(
            "config.eval.background_words is empty, and the class of an episode competes with "
            "them; give some such as ('others',)."
        )


def evaluate_model(config: ConfigDict, model: Model) -> tuple[dict, dict[str, list[Example]]]:
    """Evaluates a model by the `eval` and `data` sections of a config.

    `data.eval` gives the figures of `evaluate_segmentation`, or of `evaluate_episodes` where its
    examples ask for one class each; `data.retrieval`, `data.zero_shot` and `data.regions`, where
    the config has them, those of `evaluate_retrieval`, `evaluate_zero_shot` and `region_figures`.

    Returns:
      The result with the whole protocol, and pictures to show, by heading.

    Raises:
      UserError: what `check_evaluation` finds.
    """
    loader = _create_loader(config)
    _check(config, loader)
    model = on_local_devices(model)
    # Encoded once, for whichever of the figures need it.
    words = functools.cache(functools.partial(models.create_vocabulary, config, model, "all"))
    episodes = _has_episodes(loader)
    measure = _evaluate_episodes if episodes else functools.partial(_evaluate_pixels, words)
    result, shown = measure(
        config,
        model,
        loader,
        protocol=Protocol.from_config(config.eval),
        metrics=config.eval.metrics,
        batch_size=config.eval.batch_size,
        report_images=config.eval.report_images,
        total=len(loader.source),
    )
    figures, skipped = _evaluate_whole_pictures(words, config, model)
    if unreadable := int(over_processes(np.array(len(loader.skipped)))) + skipped:
        result["unreadable"] = unreadable
    result |= figures
    result["protocol"] |= {
        "system": config.system.name,
        "templates": list(load_templates(config.vocabulary.templates)),
        "data": config.data.eval.source.to_dict(),
        "transforms": [dict(step) for step in config.data.eval.transforms],
        "weights": digest(model.params),
    }
    return result, shown


def _create_loader(config: ConfigDict):
    """Of single examples, which every process groups by itself."""
    batch_size = config.eval.batch_size * jax.process_count()
    return models.create_loader(config, config.data.eval, batch_size, shuffle=False)


def _has_episodes(loader) -> bool:
    return isinstance(loader.source, ClassMasks)


def _evaluate_pixels(
    words: Words, config: ConfigDict, model: Model, loader, protocol: Protocol, **options: Any
):
    return evaluate_segmentation(
        model,
        words(),
        loader.examples(),
        load_label_space(config.vocabulary.label_space),
        protocol,
        oracle=config.eval.oracle,
        boundary=config.eval.boundary,
        **options,
    )


def _evaluate_episodes(
    config: ConfigDict, model: Model, loader, protocol: Protocol, **options: Any
):
    classes = load_label_space(config.vocabulary.label_space)
    space = episode_space(classes, loader.source.fold, config.eval.background_words)
    vocabulary = models.create_vocabulary(config, model, "unseen", with_background(space))
    return evaluate_episodes(model, vocabulary, loader.examples(), space, protocol, **options)


def _evaluate_whole_pictures(words: Words, config: ConfigDict, model: Model) -> tuple[dict, int]:
    """The figures `retrieval`, `zero_shot` and `regions`, where the config has data for them.

    Returns:
      The figures, and how many pictures could not be read.
    """
    encode_image, encode_text = clip_encoders(model)
    # All processes see all pictures: each is ranked among all of them.
    load = functools.partial(
        models.create_loader,
        config,
        batch_size=config.eval.batch_size,
        shuffle=False,
        drop_remainder=False,
        shard=(0, 1),
    )
    result, skipped = {}, 0
    if "retrieval" in config.data:
        pairs = load(config.data.retrieval)
        result["retrieval"] = evaluate_retrieval(encode_image, encode_text, pairs.epoch())
        skipped += len(pairs.skipped)
    if "zero_shot" in config.data:
        objects = load(config.data.zero_shot)
        unseen = load_label_space(config.vocabulary.label_space).unseen
        found = evaluate_zero_shot(encode_image, words(), objects.epoch(), unseen)
        result["zero_shot"] = found
        skipped += len(objects.skipped)
    if "regions" in config.data:
        regions = load(config.data.regions, shard=None)
        counts = count_regions(model, words(), regions.epoch())
        counts = jax.tree.map(over_processes, counts)
        result["regions"] = region_figures(counts, np.asarray(words().seen))
        skipped += int(over_processes(np.array(len(regions.skipped))))
    return result, skipped
