import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from ovseg_jax.losses.contrastive import (
    attended_similarity,
    contrastive_loss,
    entity_contrastive_loss,
)
from ovseg_jax.losses.dice import dice_from_sums
from ovseg_jax.losses.masks import NO_CLASS, best_class, has_class, mask_losses
from ovseg_jax.ops.resize import resize


def reference(logits, labels, ids, ignore_unlabelled=False):
    """The formulas of the specification, one (image, class) pair at a time."""
    full = np.asarray(resize(logits, labels.shape[1:]), np.float64)
    focal = dice = pairs = 0.0
    for image in range(len(full)):
        valid = np.ones(labels.shape[1:], bool)
        if ignore_unlabelled:
            valid = np.isin(labels[image], ids[ids >= 0])
        for channel in np.flatnonzero(ids >= 0):
            m, t = full[image, ..., channel][valid], (labels[image] == ids[channel])[valid]
            if not t.size:
                continue
            p = expit(m)
            ce = -np.where(t, np.log(p), np.log1p(-p))
            p_t = np.where(t, p, 1 - p)
            focal += (np.where(t, 0.25, 0.75) * ce * (1 - p_t) ** 2).mean()
            if t.any():
                pairs += 1
                dice += 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    return focal / max(1, pairs), dice / max(1, pairs)


def case(classes=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (3, 4, 5, classes)).astype(np.float32)
    labels = rng.integers(0, classes + 2, (3, 9, 12))
    labels[0, :4] = 255
    labels[2] = 255  # an image without any label
    return logits, labels, np.arange(classes)


@pytest.mark.parametrize("ignore_unlabelled", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_mask_losses_equal_the_formulas_for_every_chunk(chunk, ignore_unlabelled):
    logits, labels, ids = case()
    actual = mask_losses(logits, labels, ids, chunk=chunk, ignore_unlabelled=ignore_unlabelled)
    expected = reference(logits, labels, ids, ignore_unlabelled)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_gradient_does_not_depend_on_the_chunk():
    logits, labels, ids = case()
    grads = [
        jax.grad(lambda m, chunk=chunk: sum(mask_losses(m, labels, ids, chunk=chunk)))(logits)
        for chunk in (2, 7)
    ]
    np.testing.assert_allclose(*grads, atol=1e-6)
    assert np.abs(grads[0]).max() > 0


def test_padding_rows_change_nothing():
    logits, labels, ids = case()
    padded = np.pad(logits, ((0, 0), (0, 0), (0, 0), (0, 3)), constant_values=5.0)
    more = np.pad(ids, (0, 3), constant_values=-1)
    np.testing.assert_allclose(
        mask_losses(padded, labels, more, chunk=4),
        mask_losses(logits, labels, ids, chunk=4),
        rtol=1e-6,
    )


def test_batch_without_any_label():
    logits, labels, ids = case()
    nothing = np.full_like(labels, NO_CLASS)
    losses = mask_losses(logits, nothing, ids, chunk=4)
    np.testing.assert_allclose(losses.focal, reference(logits, nothing, ids)[0], rtol=1e-5)
    assert losses.dice == 0
    assert mask_losses(logits, nothing, ids, chunk=4, ignore_unlabelled=True).focal == 0


def test_large_logits_are_no_trouble():
    logits = jnp.array([-200.0, 200.0]).reshape(1, 1, 2, 1)
    for label, expected in ((0, 50.0 / 2), (1, 150.0 / 2)):  # right on one of the two pixels
        labels = jnp.full((1, 1, 2), label)
        focal, grad = jax.value_and_grad(
            lambda m, labels=labels: mask_losses(m, labels, jnp.array([0]), chunk=1).focal
        )(logits)
        np.testing.assert_allclose(focal, expected)
        assert np.isfinite(grad).all()


def test_gradient_equals_finite_differences():
    logits, labels, ids = case()

    def loss(m, ignore):
        return sum(mask_losses(m, labels, ids, chunk=3, ignore_unlabelled=ignore))

    for ignore in (False, True):
        direction = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
        slope = (jax.grad(loss)(logits, ignore) * direction).sum()
        exact = [sum(reference(logits + h * direction, labels, ids, ignore)) for h in (-1e-2, 1e-2)]
        np.testing.assert_allclose(slope, (exact[1] - exact[0]) / 2e-2, rtol=2e-3)


def test_dice_of_a_perfect_mask_is_zero():
    assert dice_from_sums(jnp.array(7.0), jnp.array(7.0), jnp.array(7.0)) == 0


@pytest.mark.parametrize("chunk", [1, 2, 9])
def test_best_class(chunk):
    logits, _, _ = case()
    ids, allowed = np.arange(7) * 10, np.array([0, 1, 1, 0, 1, 1, 0], bool)
    full = np.asarray(resize(logits, (8, 10)))
    expected = ids[np.where(allowed, full, -np.inf).argmax(-1)]
    actual = best_class(logits, jnp.asarray(ids), jnp.asarray(allowed), (8, 10), chunk=chunk)
    np.testing.assert_array_equal(actual, expected)


def test_best_class_ties_and_emptiness():
    logits, ids = jnp.zeros((1, 2, 2, 4)), jnp.array([5, 6, 7, 8])
    allowed = jnp.array([False, True, True, True])
    assert (best_class(logits, ids, allowed, (4, 4), chunk=2) == 6).all()
    assert (best_class(logits, ids, allowed & False, (4, 4), chunk=2) == NO_CLASS).all()


def test_has_class_knows_padding():
    labels = jnp.array([3, -1, 255, 4])
    assert has_class(labels, jnp.array([3, 4, -1])).tolist() == [True, False, False, True]


def test_contrastive_loss():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 5, 8)).astype(np.float32)
    logits = 2.5 * image @ text.T
    expected = -0.5 * (
        np.diag(log_softmax(logits, 1)).mean() + np.diag(log_softmax(logits, 0)).mean()
    )
    np.testing.assert_allclose(contrastive_loss(image, text, 2.5), expected, rtol=1e-5)
    # The gradient with respect to one image: softmax minus one-hot, from both directions.
    grad = jax.grad(contrastive_loss)(image, text, 2.5)
    error = (softmax(logits, 1) + softmax(logits, 0)) / 2 - np.eye(5)
    np.testing.assert_allclose(grad, 2.5 * error @ text / 5, atol=1e-5)


def test_attended_similarity_lies_between_mean_and_maximum():
    rng = np.random.default_rng(1)
    patches, text = rng.normal(size=(2, 6, 8)), rng.normal(size=(3, 8))
    cosines = np.einsum("bne,me->bmn", patches, text)
    weights = softmax(10 * cosines, -1)
    actual = attended_similarity(jnp.float32(patches), jnp.float32(text))
    np.testing.assert_allclose(actual, (weights * cosines).sum(-1), rtol=1e-4)
    assert np.all(actual > cosines.mean(-1)) and np.all(actual < cosines.max(-1) + 1e-5)


# Two names that both pictures hold, one each of their own, and padding.
NAMES = np.array([[[1, 5, 9], [1, 6, 9], [1, 7, 9]], [[1, 6, 9], [1, 8, 9], [0, 0, 0]]], np.int32)


def test_entity_contrastive_loss_one_pair_at_a_time():
    rng = np.random.default_rng(2)
    patches, text = rng.normal(size=(2, 4, 8)), rng.normal(size=(6, 8))
    logits = 2.5 * np.asarray(attended_similarity(jnp.float32(patches), jnp.float32(text)))
    rows = [tuple(row) for row in NAMES.reshape(-1, 3)]
    held = [{tuple(row) for row in names} for names in NAMES]
    total, pairs = 0.0, 0
    for image, own in enumerate(held):
        for name, row in enumerate(rows):
            if not any(row) or row not in own:
                continue
            pairs += 1
            wrong_names = [logits[image, n] for n, r in enumerate(rows) if any(r) and r not in own]
            wrong_images = [logits[i, name] for i, other in enumerate(held) if row not in other]
            for wrong in (wrong_names, wrong_images):
                right = logits[image, name]
                total += np.log(np.exp(right) + np.exp(wrong).sum()) - right
    actual = entity_contrastive_loss(jnp.float32(patches), jnp.float32(text), NAMES, 2.5)
    np.testing.assert_allclose(actual, 0.5 * total / pairs, rtol=1e-5)


@pytest.mark.parametrize("names", [np.zeros_like(NAMES), np.tile(NAMES[:1], (2, 1, 1))])
def test_entity_contrastive_loss_without_wrong_names_is_zero(names):
    rng = np.random.default_rng(3)
    patches, text = jnp.float32(rng.normal(size=(2, 4, 8))), jnp.float32(rng.normal(size=(6, 8)))
    loss, gradient = jax.value_and_grad(entity_contrastive_loss)(patches, text, names, 2.5)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)
