"""Reads recorded files, has each compared by the function of its system and kind, and reports.

A compare function takes the arrays of a file (by key, `meta` apart) and its meta data, and returns
for the keys of the file what this implementation computes and how close it must be: a `Quantity`,
or a triple (reference, ours, name of a kind in `KINDS`). Whatever reference array it does not
mention fails the file.
"""

import dataclasses
import difflib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.tables import text_table

# (system, kind) -> the function that compares.
COMPARE = {
    ("clip", "vit"): "ovseg_jax.parity.clip:compare_vit",
    ("clip", "rn"): "ovseg_jax.parity.clip:compare_resnet",
    ("clip", "openai_archive"): "ovseg_jax.parity.clip:compare_archive",
    ("clip", "layouts"): "ovseg_jax.parity.clip:compare_layouts",
    ("clip", "preprocess"): "ovseg_jax.parity.clip:compare_preprocess",
    ("clip", "interpolate"): "ovseg_jax.parity.ops:compare_interpolate",
    ("training_free", "dense_features"): "ovseg_jax.parity.training_free:compare_dense",
    ("training_free", "gem_features"): "ovseg_jax.parity.training_free:compare_gem",
    ("training_free", "maskclip_vit"): "ovseg_jax.parity.training_free:compare_maskclip_vit",
    ("training_free", "maskclip_rn50"): "ovseg_jax.parity.training_free:compare_maskclip_resnet",
    ("training_free", "slide"): "ovseg_jax.parity.training_free:compare_pictures",
    ("training_free", "whole"): "ovseg_jax.parity.training_free:compare_pictures",
    ("zegclip", "train_inductive"): "ovseg_jax.parity.zegclip:compare_train",
    ("zegclip", "train_selftrain"): "ovseg_jax.parity.zegclip:compare_train",
    ("zegclip", "train_full"): "ovseg_jax.parity.zegclip:compare_train",
    ("zegclip", "test_inductive"): "ovseg_jax.parity.zegclip:compare_test",
    ("zegclip", "test_selftrain"): "ovseg_jax.parity.zegclip:compare_test",
    ("zegclip", "test_full"): "ovseg_jax.parity.zegclip:compare_test",
    ("zegclip", "text_encoder"): "ovseg_jax.parity.zegclip:compare_text_encoder",
    ("zegclip", "vpt_depths"): "ovseg_jax.parity.zegclip:compare_vpt_depths",
    ("zegclip", "optim"): "ovseg_jax.parity.zegclip:compare_optim",
    ("zegclip", "pos_embed"): "ovseg_jax.parity.ops:compare_pos_embed",
    ("zegclip", "augment"): "ovseg_jax.parity.zegclip_data:compare_augment",
    ("maskformer", "backbone_basic_stem"): "ovseg_jax.parity.maskformer:compare_backbone",
    ("maskformer", "backbone_deeplab_stem"): "ovseg_jax.parity.maskformer:compare_backbone",
    ("maskformer", "pixel_decoder_base"): "ovseg_jax.parity.maskformer:compare_pixel_decoder",
    ("maskformer", "pixel_decoder_transformer"): (
        "ovseg_jax.parity.maskformer:compare_pixel_decoder"
    ),
    ("maskformer", "transformer_predictor"): "ovseg_jax.parity.maskformer:compare_predictor",
    ("maskformer", "position_sine"): "ovseg_jax.parity.maskformer:compare_positions",
    ("maskformer", "maskformer_full"): "ovseg_jax.parity.maskformer:compare_full",
    ("maskformer", "lr_schedules"): "ovseg_jax.parity.maskformer:compare_schedules",
    ("maskformer", "optimizer"): "ovseg_jax.parity.maskformer:compare_optimizer",
    ("maskformer", "mapper"): "ovseg_jax.parity.maskformer_data:compare_mapper",
    ("maskformer", "color_aug"): "ovseg_jax.parity.maskformer_data:compare_color",
    ("maskformer", "resize"): "ovseg_jax.parity.maskformer_data:compare_resize",
    ("fusioner", "preprocess"): "ovseg_jax.parity.fusioner_data:compare_preprocess",
    ("groupvit", "pipeline"): "ovseg_jax.parity.groupvit_data:compare_pipeline",
    ("groupvit", "randaugment"): "ovseg_jax.parity.groupvit_data:compare_randaugment",
    ("zegclip", "metrics"): "ovseg_jax.parity.metrics:compare_zegclip",
    ("groupvit", "metrics"): "ovseg_jax.parity.metrics:compare_groupvit",
    ("catseg", "metric_miou"): "ovseg_jax.parity.metrics:compare_catseg",
    ("zsseg", "evaluator"): "ovseg_jax.parity.metrics:compare_zsseg",
    ("zsseg", "classification_evaluator"): "ovseg_jax.parity.metrics:compare_classification",
    ("fusioner", "metrics"): "ovseg_jax.parity.metrics:compare_fusioner",
    ("metrics", "mmseg_iou"): "ovseg_jax.parity.metrics:compare_mmseg_iou",
    ("metrics", "mmseg1_ioumetric"): "ovseg_jax.parity.metrics:compare_mmseg1",
    ("metrics", "zegclip_seen_unseen"): "ovseg_jax.parity.metrics:compare_zegclip_tables",
    ("metrics", "detectron2_semseg"): "ovseg_jax.parity.metrics:compare_detectron2",
    ("metrics", "fewshot"): "ovseg_jax.parity.metrics:compare_few_shot",
    ("metrics", "panoptic_quality"): "ovseg_jax.parity.metrics:compare_panoptic",
    ("metrics", "mmseg_slide_tta"): "ovseg_jax.parity.windows:compare_slide",
}

# Parts of a key that mark a reference array.
REFERENCE = frozenset({"out", "out64", "grad", "grad_in", "after", "sched64"})

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What we computed for a key, and how close it must be.

    Attributes:
      actual: our array, in the layout of the reference; None = not compared.
      measure: 'relative' (largest difference over the largest magnitude of the reference),
        'absolute' (largest difference) or 'agreement' (share of equal entries).
      limit: bound of the measure; for 'agreement' a lower one.
      scale: magnitude in place of the reference's own, where that is zero but for rounding.
      reason: why it is not compared.
      informative: the specification asks for no comparison, so its lack is no failure.
      expected: the reference, where it is not the array of that key (but part of the meta data).
    """

    actual: np.ndarray | None
    measure: str = "relative"
    limit: float = 1e-4
    scale: float | None = None
    reason: str = ""
    informative: bool = False
    expected: np.ndarray | None = None


def output(actual, limit: float = 1e-4) -> Quantity:
    """A float result within 1e-4 of the largest magnitude."""
    return Quantity(np.asarray(actual), limit=limit)


def loss(actual) -> Quantity:
    """A loss within 2e-5."""
    return Quantity(np.asarray(actual), limit=2e-5)


def gradient(actual, scale: float | None = None) -> Quantity:
    """A gradient within 1e-3 of its largest magnitude, or of `scale`."""
    return Quantity(np.asarray(actual), limit=1e-3, scale=scale)


def exact(actual) -> Quantity:
    """Integers, equal everywhere."""
    return Quantity(np.asarray(actual), "absolute", 0.0)


def levels(actual, limit: float = 1.0) -> Quantity:
    """8-bit pixels within so many levels."""
    return Quantity(np.asarray(actual), "absolute", limit)


def label_map(actual) -> Quantity:
    """A map of labels, equal in 99.9 % of the pixels (ties)."""
    return Quantity(np.asarray(actual), "agreement", 0.999)


def not_compared(reason: str, informative: bool = False) -> Quantity:
    """A reference array without a counterpart."""
    return Quantity(None, reason=reason, informative=informative)


# Kinds that a compare function may name in place of building a quantity.
KINDS = {"float": output, "exact": exact, "pixels1": levels}


def _quantity(value: Quantity | tuple[np.ndarray, np.ndarray, str]) -> Quantity:
    if isinstance(value, Quantity):
        return value
    expected, actual, kind = value
    return dataclasses.replace(KINDS[kind](actual), expected=np.asarray(expected))


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the report."""

    quantity: str
    max_abs: float
    max_rel: float
    tolerance: str
    ok: bool
    note: str = ""


_UNKNOWN = not_compared("this implementation computes no such quantity")


def _compare(key: str, expected: np.ndarray, quantity: Quantity) -> Row:
    if quantity.actual is None:
        note = f"not compared: {quantity.reason}"
        return Row(key, np.nan, np.nan, "-", quantity.informative, note)
    actual = quantity.actual
    sign = ">=" if quantity.measure == "agreement" else "<="
    tolerance = f"{quantity.measure} {sign} {quantity.limit:g}"
    if actual.shape != expected.shape:
        note = f"shape {actual.shape} instead of {expected.shape}"
        return Row(key, np.nan, np.nan, tolerance, False, note)
    if not expected.size:
        return Row(key, 0.0, 0.0, tolerance, True)
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    # A NaN of the reference (a score of an absent class) must be NaN here too.
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    difference = np.abs(np.where(same, 0.0, actual - expected))
    max_abs = float(difference.max())  # NaN where only one side is
    finite = np.abs(expected[np.isfinite(expected)])
    scale = quantity.scale if quantity.scale is not None else float(finite.max(initial=0.0))
    max_rel = max_abs / scale if scale else (0.0 if max_abs == 0 else np.inf)
    note = ""
    if quantity.measure == "agreement":
        ok = bool(same.mean() >= quantity.limit)
        note = f"{100 * same.mean():.3f} % equal"
    else:
        ok = bool((max_rel if quantity.measure == "relative" else max_abs) <= quantity.limit)
    return Row(key, max_abs, max_rel, tolerance, ok, note)


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads the arrays and the meta data of a recorded file.

    Raises:
      UserError: no such file, no npz, or no usable `meta` entry.
    """
    try:
        # numpy leaves a damaged file open where it opened it itself.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise UserError(f"no file {path}; check the path.") from None
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for damaged files
        raise UserError(f"{path} cannot be read as an npz file ({error}).") from error
    try:
        meta = json.loads(str(arrays.pop("meta")))
        meta["system"], meta["kind"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is no recorded reference: it needs an entry 'meta', JSON with system and kind."
        ) from error
    return arrays, meta


def _borrowed_parameters(path: Path, meta: Mapping) -> dict[str, np.ndarray]:
    """Parameters that stand in another file of the folder, where the meta data say so."""
    named = re.search(r"(\S+\.npz) in the same folder", str(meta.get("params", "")))
    if named is None:
        return {}
    arrays, _ = load(path.parent / named[1])
    return {key: value for key, value in arrays.items() if key.startswith("param/")}


def _compare_function(path: str | Path, meta: Mapping) -> Callable[[Arrays, Mapping], dict]:
    wanted = (str(meta["system"]), str(meta["kind"]))
    if wanted not in COMPARE:
        known = {"/".join(key) for key in COMPARE}
        near = difflib.get_close_matches("/".join(wanted), known, n=1, cutoff=0.0)[0]
        raise UserError(
            f"{path} is of system {wanted[0]!r} and kind {wanted[1]!r}, which has no comparison; "
            f"the nearest that has one is {near}."
        )
    module, function = COMPARE[wanted].split(":")
    return getattr(importlib.import_module(module), function)


def compare_file(path: str | Path) -> list[Row]:
    """Compares every reference array of a file.

    Raises:
      UserError: the file is unreadable, foreign or incomplete.
    """
    import jax

    arrays, meta = load(path)
    compare = _compare_function(path, meta)
    arrays = _borrowed_parameters(Path(path), meta) | arrays
    try:
        with jax.default_matmul_precision("highest"):
            quantities = {key: _quantity(value) for key, value in compare(arrays, meta).items()}
    except KeyError as error:
        raise UserError(f"{path} lacks the entry {error} that its kind needs.") from error
    references = {key: arrays[key] for key in arrays if REFERENCE & set(key.split("/"))}
    references |= {
        key: quantity.expected
        for key, quantity in quantities.items()
        if quantity.expected is not None
    }
    return [_compare(key, ref, quantities.get(key, _UNKNOWN)) for key, ref in references.items()]


def format_table(rows: Sequence[Row]) -> str:
    """The table of a file, one line per quantity."""
    cells = []
    for row in rows:
        ok = ("yes" if row.ok else "NO") + (f" ({row.note})" if row.note else "")
        cells.append((row.quantity, f"{row.max_abs:.2e}", f"{row.max_rel:.2e}", row.tolerance, ok))
    header = ("quantity", "max abs", "max rel", "tolerance", "ok")
    return text_table(header, cells, "lllll", between=" | ")


def run(paths: Sequence[str | Path], say: Callable[[str], None] = print) -> bool:
    """Compares files, reports, and returns whether all is well.

    A file that cannot be read is reported in one sentence and counts as one failure; the others
    are compared all the same.
    """
    quantities = failed = 0
    for path in paths:
        try:
            rows = compare_file(path)
        except UserError as error:
            say(f"error: {error}\n")
            failed += 1
            continue
        say(f"{path}\n{format_table(rows)}\n")
        quantities += len(rows)
        failed += sum(not row.ok for row in rows) + (not rows)
    say(f"{len(paths)} files, {quantities} quantities, {failed} failed")
    return failed == 0
