"""Recorded counts and scores of every evaluation protocol against `ovseg_jax.metrics`."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ovseg_jax.metrics import (
    boundary,
    classification,
    detectron2,
    few_shot,
    mmseg,
    panoptic,
    zero_shot,
)
from ovseg_jax.metrics.confusion import confusion_matrix
from ovseg_jax.parity.runner import Arrays, Quantity, exact, output
from ovseg_jax.text.label_space import load_label_space

# The map of `eval64_label_map`, which its file does not tell.
_LABEL_MAP = {1: 3, 0: 1}
_AREAS = ("intersect", "union", "pred", "label")
_FLOAT32 = 2e-7  # part of the references divide in float32
_FOLDS = {"pascal": "pascal5i", "coco": "coco20i"}  # data set -> its label space

# Compiled whole: recorded maps have many sizes, and each size of each operation costs anew.
_count = jax.jit(confusion_matrix, static_argnums=(2, 3))
_count_edges = jax.jit(boundary.label_difference_confusion, static_argnums=(2, 3))
_count_episode = jax.jit(few_shot.episode_counts)
_foreground = jax.jit(few_shot.foreground)


# --- mmsegmentation ---------------------------------------------------------------------------


def compare_mmseg_iou(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Areas and scores of mmsegmentation 0.x, with its options for labels and missing classes."""
    classes, ignore = meta["num_classes"], meta["ignore"]
    predictions, labels = _numbered(arrays, "in/pred"), _numbered(arrays, "in/gt")
    label_map = meta.get("label_map", _LABEL_MAP)

    def total(labels: list[np.ndarray]) -> np.ndarray:
        return sum(_matrices(labels, predictions, classes, ignore))

    plain = total(labels)
    compared: dict[str, Quantity] = {}
    for number, matrix in enumerate(_matrices(labels, predictions, classes, ignore)):
        compared |= _areas(matrix, f"out/area{number}_{{}}")
    reduced = [mmseg.reduce_zero_label(label, ignore) for label in labels]
    mapped = [mmseg.map_labels(label, label_map) for label in labels]
    variants = {
        "pre_eval": mmseg.scores(plain),
        "eval64": mmseg.scores(plain),
        "eval64_nan_to_num_m1": mmseg.scores(plain, nan_to_num=-1),
        "eval64_reduce_zero": mmseg.scores(total(reduced)),
        "eval64_label_map": mmseg.scores(total(mapped)),
        "eval64_out_of_range": mmseg.scores(total(_numbered(arrays, "in/gt_oor"))),
    }
    for variant, values in variants.items():
        compared |= _figures(values, f"out/{variant}_{{}}")
    summary = mmseg.summary(plain)
    for name, value in meta["summary"].items():
        ours = summary[name if name == "aAcc" else f"m{name}"]
        compared[f"meta/summary/{name}"] = _of_meta(ours, value)
    return compared


def compare_mmseg1(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """The tables of mmsegmentation 1.x, with and without a number in place of NaN."""
    total = sum(_numbered_matrices(arrays, meta["num_classes"], meta["ignore"]))
    compared = {}
    for case, table in meta["results"].items():
        number = case.partition("nan_to_num=")[2]
        summary = mmseg.summary(total, nan_to_num=None if number == "None" else float(number))
        ours = [summary[name] for name in table]
        compared[f"meta/results/{case}"] = _of_meta(ours, list(table.values()))
    return compared


def compare_groupvit(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """GroupViT's areas and scores, over a data set and per class."""
    labels, ignore = _numbered(arrays, "in/gt"), meta["ignore_index"]
    if meta["reduce_zero_label"]:
        labels = [mmseg.reduce_zero_label(label, ignore) for label in labels]
    predictions = _numbered(arrays, "in/pred")
    total = sum(_matrices(labels, predictions, meta["num_classes"], ignore))
    summary = mmseg.summary(total)
    for name, values in mmseg.scores(total).items():
        percent = enumerate(np.round(100 * np.atleast_1d(values), 2))
        summary |= {f"{name}.c{index}": value for index, value in percent}
    summary = [summary[name] / 100 for name in meta["summary"]]
    expected = np.array(list(meta["summary"].values()), np.float64)  # null becomes NaN
    compared = _areas(total, "out/{}") | _figures(mmseg.scores(total, nan_to_num=-1), "out/{}")
    return compared | {"meta/summary": _of_meta(summary, expected)}


# --- ZegCLIP ----------------------------------------------------------------------------------


def compare_zegclip(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Areas, scores, and the tables of all, seen and unseen classes."""
    labels, ignore = _numbered(arrays, "in/label_"), meta["ignore_index"]
    if meta["reduce_zero_label"]:
        labels = [mmseg.reduce_zero_label(label, ignore) for label in labels]
    matrices = _matrices(labels, _numbered(arrays, "in/pred_"), meta["num_classes"], ignore)
    compared: dict[str, Quantity] = {}
    for number, matrix in enumerate(matrices):
        compared |= _areas(matrix, f"out/{{}}_{number}")
    total = sum(matrices)
    plain = zero_shot.seen_unseen(total, meta["seen"], meta["unseen"])
    rounded = zero_shot.seen_unseen(total, meta["seen"], meta["unseen"], digits=2)
    table = _table(rounded)
    figures = {
        "hIoU": rounded["hIoU"],
        "mIoU_seen_unrounded": plain["mIoU_seen"],
        "mIoU_unseen_unrounded": plain["mIoU_unseen"],
        "summary_all_seen_unseen": table,
        "returned": table[0] / 100,
    }
    figures |= mmseg.scores(total)
    return compared | _areas(total, "out64/total_{}") | _figures(figures, "out64/{}")


def compare_zegclip_tables(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """The same tables as recorded apart from ZegCLIP's own case."""
    total = sum(_numbered_matrices(arrays, meta["num_classes"], meta["ignore"]))
    scores = zero_shot.seen_unseen(total, meta["seen"], meta["unseen"], digits=2)
    tables = [meta["tables"][name] for name in ("total", "seen", "unseen")]
    returned = [meta["returned"][name] for name in ("aAcc", "mIoU", "mAcc")]
    return {
        "meta/tables": _of_meta(_table(scores), tables),
        "meta/returned": _of_meta(_table(scores)[0] / 100, returned),
        "meta/hIoU_from_table": _of_meta(scores["hIoU"], meta["hIoU_from_table"]),
    }


def _table(scores: Mapping[str, float]) -> np.ndarray:
    """Rows all, seen, unseen; columns aAcc, mIoU, mAcc."""
    groups = ("", "_seen", "_unseen")
    return np.array([[scores["aAcc"], scores[f"mIoU{g}"], scores[f"mAcc{g}"]] for g in groups])


# --- detectron2 -------------------------------------------------------------------------------

_RULES = {"current": "current", "new": "current", "before_july_2022": "legacy", "old": "legacy"}


def compare_detectron2(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """detectron2's figures by both rules, its boundary figures, and zsseg's split."""
    classes, ignore = meta["num_classes"], meta["ignore"]
    labels, predictions = _numbered(arrays, "in/gt"), _numbered(arrays, "in/pred")
    total = _with_ignored(labels, predictions, classes, ignore)
    compared = _by_rule(total, "current") | _by_rule(total, "before_july_2022")
    edges = sum(
        np.asarray(_count_edges(label, prediction, classes, ignore))
        for label, prediction in zip(labels, predictions, strict=True)
    )
    edge_iou = output(100 * boundary.label_difference_iou(edges), _FLOAT32)
    first = np.where(labels[0] == ignore, classes, labels[0])
    distance = boundary.boundary_distance(first.shape)
    compared |= {
        "out/conf_matrix": exact(total.T),
        "out/boundary_conf_matrix": exact(edges.T),
        "out/boundary_gt0": exact(boundary.label_difference(first, distance)),
        "out/current_boundary_iou": edge_iou,
        "out/before_july_2022_boundary_iou": edge_iou,
    }
    return compared | _figures(_zsseg(total, meta["seen"], "base", "_"), "out/zsseg_{}")


def compare_catseg(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Both rules on the labels of CAT-Seg's evaluation."""
    labels, predictions = _numbered(arrays, "in/gt"), _numbered(arrays, "in/pred")
    total = _with_ignored(labels, predictions, meta["num_classes"], meta["ignore_label"])
    return {"out/conf_matrix": exact(total.T)} | _by_rule(total, "new") | _by_rule(total, "old")


def compare_zsseg(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Figures of every set of zsseg's classes and of what is outside of it."""
    labels, predictions = _numbered(arrays, "in/gt_"), _numbered(arrays, "in/pred_")
    total = _with_ignored(labels, predictions, meta["num_classes"], meta["ignore_label"])
    figures = {f"{name}_per_class": value for name, value in _per_class(total).items()}
    for name, classes in meta["evaluation_set"].items():
        figures |= _zsseg(total, classes, name, "-")
    return {"out/conf_matrix": exact(total.T)} | _figures(figures, "out/{}")


def _with_ignored(
    labels: list[np.ndarray], predictions: list[np.ndarray], classes: int, ignore: int
) -> np.ndarray:
    """As detectron2 counts, but rows by label: ignored pixels in the last one."""
    marked = [np.where(label == ignore, classes, label.astype(np.int32)) for label in labels]
    return sum(_matrices(marked, predictions, classes, -1))


def _by_rule(total: np.ndarray, recorded: str) -> dict[str, Quantity]:
    figures = _named(detectron2.summary(total, _RULES[recorded])) | _per_class(total)
    return _figures(figures, f"out/{recorded}_{{}}")


def _named(summary: Mapping[str, float]) -> dict[str, float]:
    """A summary with detectron2's names."""
    names = {"mIoU": "mIoU", "fwIoU": "fwIoU", "mACC": "mAcc", "pACC": "aAcc"}
    return {theirs: summary[ours] for theirs, ours in names.items()}


def _per_class(total: np.ndarray) -> dict[str, np.ndarray]:
    return {name.lower(): 100 * value for name, value in detectron2.scores(total).items()}


def _zsseg(total: np.ndarray, inside: list[int], name: str, joint: str) -> dict[str, float]:
    """All figures, those of a set of classes and of the others, with zsseg's names."""
    outside = [index for index in range(len(total) - 1) if index not in inside]
    scores = detectron2.seen_unseen(total, inside, outside)
    figures = _named(scores) | {f"hIoU{joint}{name}": scores["hIoU"]}
    for prefix, suffix in (("", "_seen"), ("un", "_unseen")):
        figures[f"mIoU{joint}{prefix}{name}"] = scores[f"mIoU{suffix}"]
        figures[f"pAcc{joint}{prefix}{name}"] = scores[f"aAcc{suffix}"]
    return figures


def compare_classification(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Accuracies of zsseg's prompts, over pictures and over classes."""
    figures: dict[str, Any] = {}
    for k in (1, 5):
        counts = classification.count_hits(arrays["in/logits"], arrays["in/labels"], k)
        per_class = classification.class_accuracy(counts)
        figures |= {
            f"macc_top{k}": classification.accuracy(counts),
            f"acc_top{k}_per_class": per_class,
            f"mmacc_top{k}": per_class.mean(),
        }
    counts = classification.count_hits(arrays["in/logits"], arrays["in/labels"])
    others = sorted(set(range(meta["num_classes"])) - set(meta["base"]))
    figures["acc_top1_base"] = classification.accuracy(counts, meta["base"])
    figures["acc_top1_w_o_base"] = classification.accuracy(counts, others)
    return _figures(figures, "out/{}")


# --- Few shots --------------------------------------------------------------------------------


def compare_few_shot(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """HSNet's counts of binary maps, some of them batches, and its scores."""
    compared: dict[str, Quantity] = {}
    episodes = []
    for number, prediction in enumerate(_numbered(arrays, "in/pred")):
        ignored = arrays.get(f"in/ignore{number}")
        counts = _count_episode(prediction, arrays[f"in/gt{number}"], ignored)
        compared |= _counts(counts, f"out/inter{number}", f"out/union{number}")
        episodes.append(counts)
    ids = np.concatenate(_numbered(arrays, "in/class_id"))
    sums = few_shot.sum_by_class(_joined(episodes), ids, meta["nclass"])
    scores = few_shot.hsnet(sums, meta["fold_classes"])
    figures = {"miou": scores["mIoU"], "fb_iou": scores["FB-IoU"]}
    compared |= _counts(sums, "out/inter_buf", "out/union_buf")
    return compared | _figures(figures, "out/{}")


def compare_fusioner(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Fusioner's prediction, and its and HSNet's scores of the same episodes."""
    ids = arrays["in/class_id"]
    space = load_label_space(_FOLDS[meta["dataset"]])
    fold = space.folds[meta["fold"]]
    labels = _numbered(arrays, "in/label_")
    targets = [label == index + 1 for label, index in zip(labels, ids, strict=True)]
    found = [
        _foreground(_classes_last(logits))[..., 0] for logits in _numbered(arrays, "in/logits_")
    ]

    def counts(void: Iterable[np.ndarray]) -> few_shot.Counts:
        episodes = zip(found, targets, void, strict=True)
        return _joined([_count_episode(*episode) for episode in episodes])

    void = [label == space.ignore_label for label in labels]
    none = [np.zeros_like(target) for target in targets]
    scored = np.array([target.any() for target in targets])
    multiple = _foreground(_classes_last(arrays["in/multi_logits"]))
    compared = {
        "out/fusioner/scored": exact(scored),
        "out/multi_onehot": exact(np.moveaxis(np.asarray(multiple), -1, 1)),
    }
    own = counts(void)
    own = few_shot.Counts(*(np.asarray(part) * scored[:, None] for part in own))
    sums = few_shot.sum_by_class(own, ids, len(space), scored)
    # Their buffers have a first column for the background, which stays empty.
    padded = few_shot.Counts(*(np.pad(part, ((1, 0), (0, 0))) for part in sums))
    compared |= _episodes("fusioner", own, padded, few_shot.fusioner(sums), percent=False)
    # HSNet knows no void label on COCO.
    own = counts(void if meta["dataset"] == "pascal" else none)
    sums = few_shot.sum_by_class(own, ids, len(space))
    return compared | _episodes("hsnet", own, sums, few_shot.hsnet(sums, fold), percent=True)


def _episodes(
    name: str,
    episodes: few_shot.Counts,
    sums: few_shot.Counts,
    scores: Mapping[str, float],
    percent: bool,
) -> dict[str, Quantity]:
    unit = 1 if percent else 100
    figures = {"miou": scores["mIoU"] / unit, "fb_iou": scores["FB-IoU"] / unit}
    compared = {
        f"out/{name}/episode_intersection": exact(episodes.intersection),
        f"out/{name}/episode_union": exact(episodes.union),
    }
    buffers = (f"out/{name}/intersection_buf", f"out/{name}/union_buf")
    return compared | _counts(sums, *buffers) | _figures(figures, f"out/{name}/{{}}")


def _classes_last(logits: np.ndarray) -> np.ndarray:
    return np.moveaxis(logits, 1, -1)  # [B, K, H, W] -> [B, H, W, K]


def _joined(episodes: list[few_shot.Counts]) -> few_shot.Counts:
    return few_shot.Counts(*map(np.concatenate, zip(*episodes, strict=True)))


def _counts(counts: few_shot.Counts, intersection: str, union: str) -> dict[str, Quantity]:
    """Counts [n, 2] where the reference has [2, n]."""
    return {intersection: exact(counts.intersection.T), union: exact(counts.union.T)}


# --- Panoptic quality -------------------------------------------------------------------------


def compare_panoptic(arrays: Arrays, meta: Mapping[str, Any]) -> dict[str, Quantity]:
    """Counts and qualities per category, and their means over all, things and stuff."""
    categories = {int(key): index for index, key in enumerate(meta["categories"])}

    def segments(listed: list[Mapping]) -> list[panoptic.Segment]:
        return [
            panoptic.Segment(s["id"], categories[s["category_id"]], bool(s.get("iscrowd")))
            for s in listed
        ]

    images = zip(
        _numbered(arrays, "in/gt"), _numbered(arrays, "in/pred"), meta["segments"], strict=True
    )
    counts = [
        panoptic.match_segments(
            label, prediction, segments(listed["gt"]), segments(listed["pred"]), len(categories)
        )
        for label, prediction, listed in images
    ]
    counts = panoptic.Counts(*map(sum, zip(*counts, strict=True)))
    quality = panoptic.quality(counts)
    things = np.array([bool(entry["isthing"]) for entry in meta["categories"].values()])
    summary = panoptic.summary(counts, things)
    compared = {
        f"meta/counts/{name}": _of_meta(ours, [entry[name] for entry in meta["counts"].values()])
        for name, ours in counts._asdict().items()
    }
    for name in ("pq", "sq", "rq"):
        # The reference writes 0 for a category without any segment.
        ours = np.nan_to_num(quality[name.upper()])
        theirs = [entry[name] for entry in meta["per_class"].values()]
        compared[f"meta/per_class/{name}"] = _of_meta(ours, theirs)
    groups = {
        "All": ("", things | True),
        "Things": ("_things", things),
        "Stuff": ("_stuff", ~things),
    }
    for group, (suffix, chosen) in groups.items():
        ours = {name: summary[name.upper() + suffix] / 100 for name in ("pq", "sq", "rq")}
        ours["n"] = np.isfinite(quality["PQ"][chosen]).sum()
        theirs = meta["result"][group]
        compared[f"meta/result/{group}"] = _of_meta(
            [ours[name] for name in theirs], list(theirs.values())
        )
    return compared


# --- What they share --------------------------------------------------------------------------


def _numbered(arrays: Arrays, prefix: str) -> list[np.ndarray]:
    """The arrays `prefix`0, `prefix`1, …, of which there must be one at least."""
    count = sum(re.fullmatch(rf"{re.escape(prefix)}\d+", key) is not None for key in arrays)
    return [arrays[f"{prefix}{number}"] for number in range(max(count, 1))]


def _matrices(
    labels: list[np.ndarray], predictions: list[np.ndarray], classes: int, ignore: int
) -> list[np.ndarray]:
    return [
        np.asarray(_count(label, prediction, classes, ignore), np.int64)
        for label, prediction in zip(labels, predictions, strict=True)
    ]


def _numbered_matrices(arrays: Arrays, classes: int, ignore: int) -> list[np.ndarray]:
    labels, predictions = _numbered(arrays, "in/gt"), _numbered(arrays, "in/pred")
    return _matrices(labels, predictions, classes, ignore)


def _areas(matrix: np.ndarray, key: str) -> dict[str, Quantity]:
    return {
        key.format(name): exact(value)
        for name, value in zip(_AREAS, mmseg.areas(matrix), strict=True)
    }


def _figures(values: Mapping[str, Any], key: str) -> dict[str, Quantity]:
    return {key.format(name): output(value, _FLOAT32) for name, value in values.items()}


def _of_meta(actual: Any, expected: Any) -> Quantity:
    """A quantity whose reference is no array of the file but an entry of its meta data."""
    return dataclasses.replace(output(actual, _FLOAT32), expected=np.asarray(expected))
