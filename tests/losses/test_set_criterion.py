"""Matching and criterion against the formulas, one pair at a time in float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import expit, log_softmax, softmax

from ovseg_jax.losses.matching import TermWeights, match
from ovseg_jax.losses.set_criterion import class_losses, query_classes, set_losses
from ovseg_jax.ops.resize import interpolation_matrix

WEIGHTS = TermWeights(1.5, 12.0, 2.0)


def focal(x, t):
    """Focal loss of every pixel."""
    p_t = expit(np.where(t, x, -x))
    return np.where(t, 0.25, 0.75) * (1 - p_t) ** 2 * np.logaddexp(0, np.where(t, -x, x))


def dice(x, t):
    p = expit(x)
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def pair_cost(label, x, class_id, t):
    """Cost of a query with a target of the size of its mask."""
    parts = (-softmax(label)[class_id], focal(x, t).mean(), dice(x, t))
    return sum(w * part for w, part in zip(WEIGHTS, parts, strict=True))


def nearest(t, size):
    rows, columns = (
        np.minimum(np.floor(np.float32(np.arange(n)) * (np.float32(m) / np.float32(n))), m - 1)
        for n, m in zip(size, t.shape, strict=True)
    )
    return t[np.ix_(rows.astype(int), columns.astype(int))]


def reference_pairs(labels, maps, classes, masks):
    """Queries and targets of an image."""
    down = [nearest(t, maps.shape[1:]) for t in masks]
    cost = [
        [pair_cost(label, x, c, t) for c, t in zip(classes, down, strict=True)]
        for label, x in zip(labels, maps, strict=True)
    ]
    return linear_sum_assignment(np.reshape(cost, (len(maps), len(classes))))


def reference_layer(class_logits, mask_logits, classes, masks, no_object):
    """The three terms of a layer."""
    counts = (classes >= 0).sum(1)
    down, across = (
        interpolation_matrix(n, m).astype(np.float64)
        for n, m in zip(mask_logits.shape[-2:], masks.shape[-2:], strict=True)
    )
    nll = weights = mask = overlap = 0.0
    for labels, maps, ids, targets, count in zip(
        class_logits, mask_logits, classes, masks, counts, strict=True
    ):
        queries, chosen = reference_pairs(labels, maps, ids[:count], targets[:count])
        wanted = np.full(len(maps), labels.shape[-1] - 1)
        wanted[queries] = ids[chosen]
        weight = np.full(len(maps), no_object)
        weight[queries] = 1.0
        nll -= (weight * log_softmax(labels, -1)[np.arange(len(maps)), wanted]).sum()
        weights += weight.sum()
        for query, target in zip(queries, chosen, strict=True):
            full = down @ maps[query] @ across.T
            mask += focal(full, targets[target]).mean()
            overlap += dice(full, targets[target])
    total = max(counts.sum(), 1)
    return nll / weights if weights else 0.0, mask / total, overlap / total


def case(layers=2, images=3, queries=6, slots=4, classes=5, size=(24, 20), small=(6, 5), seed=0):
    rng = np.random.default_rng(seed)
    class_logits = rng.normal(0, 2, (layers, images, queries, classes + 1)).astype(np.float32)
    mask_logits = rng.normal(0, 2, (layers, images, queries, *small)).astype(np.float32)
    counts = rng.integers(0, slots + 1, images)
    counts[:2] = 0, slots
    ids = np.full((images, slots), -1, np.int32)
    masks = np.zeros((images, slots, *size), bool)
    for image, count in enumerate(counts):
        ids[image, :count] = np.sort(rng.permutation(max(classes, slots))[:count]) % classes
        masks[image, :count] = rng.random((count, *size)) < rng.random((count, 1, 1))
    return class_logits, mask_logits, ids, masks


CASES = {
    "few targets": {},
    "sizes that do not divide": {"size": (23, 30), "small": (7, 9), "layers": 1, "seed": 1},
    "targets outnumber queries": {"queries": 3, "slots": 7, "seed": 2},
    "as many targets as queries": {"queries": 5, "slots": 5, "seed": 3},
}


@pytest.mark.parametrize("no_object", [0.1, 0.0])
@pytest.mark.parametrize("name", CASES)
def test_losses_equal_the_formulas(name, no_object):
    arrays = case(**CASES[name])
    class_logits, mask_logits, classes, masks = arrays
    total, terms = set_losses(*arrays, weights=WEIGHTS, no_object_weight=no_object)
    layers = len(class_logits)
    expected = [
        reference_layer(class_logits[i], mask_logits[i], classes, masks, no_object)
        for i in range(layers)
    ]
    for layer, values in enumerate(expected):
        suffix = "" if layer == layers - 1 else f"_{layer}"
        ours = [terms[f"loss_{term}{suffix}"] for term in ("ce", "mask", "dice")]
        np.testing.assert_allclose(ours, values, rtol=1e-5)
    assert len(terms) == 3 * layers
    np.testing.assert_allclose(total, (np.array(expected) @ WEIGHTS).sum(), rtol=1e-5)


def test_pixels_that_do_not_count_change_nothing():
    """A picture with a border that does not count is the picture without it."""
    class_logits, mask_logits, classes, masks = case(size=(6, 8), small=(6, 8))
    options = dict(weights=WEIGHTS, no_object_weight=0.1)
    rng = np.random.default_rng(1)
    around = ((0, 0),) * 3 + ((2, 1), (0, 3))
    noise = rng.normal(size=np.pad(mask_logits, around).shape)
    valid = np.pad(np.ones((len(masks), 6, 8), bool), around[1:2] + around[3:])
    logits = np.where(valid[None, :, None], np.pad(mask_logits, around), noise).astype(np.float32)

    def loss(logits):
        padded = np.pad(masks, around[1:])
        return set_losses(class_logits, logits, classes, padded, valid=valid, **options)

    total, terms = loss(logits)
    expected, wanted = set_losses(class_logits, mask_logits, classes, masks, **options)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for name, value in wanted.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    gradient = jax.grad(lambda logits: loss(logits)[0])(logits)
    assert not np.where(valid[None, :, None], 0.0, gradient).any()
    counted = set_losses(class_logits, logits, classes, np.pad(masks, around[1:]), **options)
    assert abs(counted[0] - expected) > 0.1


@pytest.mark.parametrize("name", CASES)
def test_matches_are_scipys(name):
    class_logits, mask_logits, classes, masks = case(**CASES[name])
    matches = np.asarray(match(class_logits, mask_logits, classes, masks, WEIGHTS))
    for layer, image in np.ndindex(matches.shape[:2]):
        count = (classes[image] >= 0).sum()
        queries, targets = reference_pairs(
            class_logits[layer, image],
            mask_logits[layer, image],
            classes[image, :count],
            masks[image, :count],
        )
        expected = np.full(matches.shape[2], -1)
        expected[targets] = queries
        np.testing.assert_array_equal(matches[layer, image], expected)


def test_gradient_equals_finite_differences():
    class_logits, mask_logits, classes, masks = case(seed=4)
    no_object = 0.1

    def loss(labels, maps):
        options = dict(weights=WEIGHTS, no_object_weight=no_object)
        return set_losses(labels, maps, classes, masks, **options)[0]

    def reference(step):
        labels, maps = class_logits + step * along[0], mask_logits + step * along[1]
        layers = zip(labels, maps, strict=True)
        terms = [reference_layer(*layer, classes, masks, no_object) for layer in layers]
        return (np.array(terms) @ WEIGHTS).sum()

    rng = np.random.default_rng(5)
    along = [rng.normal(size=x.shape) for x in (class_logits, mask_logits)]
    slopes = jax.grad(loss, (0, 1))(class_logits, mask_logits)
    ours = sum((slope * direction).sum() for slope, direction in zip(slopes, along, strict=True))
    step = 1e-4  # small enough that no match changes
    np.testing.assert_allclose(ours, (reference(step) - reference(-step)) / (2 * step), rtol=1e-3)


@pytest.mark.parametrize("no_object", [0.1, 0.0])
def test_a_batch_without_targets(no_object):
    class_logits, mask_logits, classes, masks = case()

    def loss(labels, maps):
        nothing = np.full_like(classes, -1), np.zeros_like(masks)
        return set_losses(labels, maps, *nothing, weights=WEIGHTS, no_object_weight=no_object)

    (total, terms), slopes = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        class_logits, mask_logits
    )
    assert terms["loss_mask"] == terms["loss_dice"] == 0
    assert (total > 0) == (no_object > 0)
    np.testing.assert_array_equal(slopes[1], 0)
    assert np.isfinite(slopes[0]).all() and (np.abs(slopes[0]).max() > 0) == (no_object > 0)


def test_more_slots_and_classes_that_do_not_exist_change_nothing():
    class_logits, mask_logits, classes, masks = case()
    wide = np.insert(class_logits, [5] * 3, -np.inf, axis=-1)
    more = np.pad(classes, ((0, 0), (0, 5)), constant_values=-1)
    empty = np.pad(masks, ((0, 0), (0, 5), (0, 0), (0, 0)))

    def gradient(labels, ids, targets):
        def loss(labels, maps):
            options = dict(weights=WEIGHTS, no_object_weight=0.1)
            return set_losses(labels, maps, ids, targets, **options)[0]

        return jax.value_and_grad(loss, (0, 1))(labels, mask_logits)

    total, (by_class, by_mask) = gradient(class_logits, classes, masks)
    wide_total, (wide_by_class, wide_by_mask) = gradient(wide, more, empty)
    np.testing.assert_allclose(wide_total, total, rtol=1e-6)
    np.testing.assert_allclose(wide_by_mask, by_mask, atol=1e-6)
    np.testing.assert_array_equal(wide_by_class[..., 5:8], 0)
    np.testing.assert_allclose(np.delete(wide_by_class, [5, 6, 7], -1), by_class, atol=1e-6)


def test_query_classes():
    matches = jnp.array([[[2, -1, 0], [-1, -1, -1]]])
    classes = jnp.array([[7, 8, 9], [-1, -1, -1]])
    assert query_classes(matches, classes, 4).tolist() == [[[9, -1, 7, -1], [-1] * 4]]


def test_class_losses_weigh_queries_without_targets():
    logits = jnp.log(jnp.array([[[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]]]))
    surprise = -np.log([0.25, 0.6])
    classes = jnp.array([[[1, -1]]])
    mean = (surprise[0] + 0.1 * surprise[1]) / 1.1
    np.testing.assert_allclose(class_losses(logits, classes, 0.1), [mean], rtol=1e-6)
    np.testing.assert_allclose(class_losses(logits, classes, 0.0), surprise[:1], rtol=1e-6)


# In a process that pretends to have eight devices: a batch on one of them, and spread over all.
SHARDED = """
import json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from ovseg_jax.losses.matching import TermWeights
from ovseg_jax.losses.set_criterion import set_losses
from tests.losses.test_set_criterion import case

assert jax.device_count() == 8

@jax.jit
def run(labels, maps, classes, masks):
    def loss(labels, maps):
        options = dict(weights=TermWeights(), no_object_weight=0.1)
        return set_losses(labels, maps, classes, masks, **options)
    return jax.value_and_grad(loss, (0, 1), has_aux=True)(labels, maps)

arrays = case(images=16)
for devices in (1, 8):
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    specs = (P(None, "data"), P(None, "data"), P("data"), P("data"))
    placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs)]
    (total, terms), slopes = run(*placed)
    numbers = [total, *terms.values(), *(x.ravel() for x in slopes)]
    print(json.dumps(np.concatenate([np.atleast_1d(x) for x in numbers]).tolist()))
    text = run.lower(*placed).compile().as_text()
    print(json.dumps(["all-gather" in text, "all-reduce" in text]))
"""


def test_eight_devices_compute_what_one_does():
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is most of the work
        "PYTHONPATH": str(root),
    }
    shown = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, cwd=root, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    one, _, eight, (gathers, reduces) = map(json.loads, shown.stdout.splitlines())
    np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-7)
    assert reduces and not gathers  # neither masks nor logits travel
