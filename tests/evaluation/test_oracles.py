"""What an evaluation knows beforehand is used picture by picture, and nothing else changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_system import MEAN, NAMES, STD, ColorSystem, color_model, color_vocabulary, scene
from flax import nnx
from scipy.special import softmax

from ovseg_jax import inference
from ovseg_jax.errors import UserError
from ovseg_jax.evaluation.oracles import known
from ovseg_jax.evaluation.pixels import evaluate_segmentation
from ovseg_jax.inference import Model, Protocol, compiled_segment, lay_on_canvas, segment_canvases
from ovseg_jax.ops.mixture import Mixture
from ovseg_jax.text.label_space import LabelSpace
from ovseg_jax.text.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("compiling_fast")

SPACE = LabelSpace("colours", tuple((name,) for name in NAMES))
SIZES = ((40, 60), (37, 52), (40, 60))
PROTOCOLS = (
    Protocol(),
    Protocol(short_side=32, crop=32, stride=16),
    Protocol(short_side=32, crop=32, stride=16, flip=True),
    Protocol(short_side=32, crop=32, stride=16, threshold=0.046),
    Protocol(pamr_steps=1, pamr_dilations=(1,), threshold=0.046),
)


def names(rows: int = 53) -> Vocabulary:
    """Many colours, some of them synonyms or padding."""
    rng = np.random.default_rng(4)
    ids = np.where(np.arange(rows) % 9 == 8, -1, np.arange(rows) % 40)
    colors = rng.integers(0, 4, (rows, 3)) * 85.0
    return Vocabulary(jnp.float32(colors), jnp.int32(ids), jnp.ones(rows, bool))


def pictures(protocol):
    found = [scene(*size, seed=seed) for seed, size in enumerate(SIZES)]
    canvases = [lay_on_canvas(image, protocol) for image, _ in found]
    truth = np.full((len(SIZES), *canvases[0].label_shape), -1, np.int32)
    for target, (_, label) in zip(truth, found, strict=True):
        target[: label.shape[0], : label.shape[1]] = label
    return canvases, truth


def at_once(monkeypatch, floats):
    monkeypatch.setattr(inference, "_SCORES_AT_ONCE", floats)
    compiled_segment.clear_cache()


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_candidates_give_what_a_vocabulary_of_them_gives(protocol, parts, monkeypatch):
    if protocol.threshold:  # a third of the names, thrice the probability
        protocol = dataclasses.replace(protocol, threshold=0.15)
    vocabulary, model = names(), color_model()
    canvases, _ = pictures(protocol)
    candidates = np.random.default_rng(0).random((len(SIZES), 40)) < 0.3
    candidates[:, 0] = [True, True, False]
    expected = []
    for canvas, own in zip(canvases, candidates, strict=True):
        ids = np.asarray(vocabulary.class_ids)
        ids = np.where((ids >= 0) & own[ids], ids, -1)
        # A picture that holds no background gets none, whatever the threshold.
        rule = protocol if own[0] else dataclasses.replace(protocol, threshold=0.0)
        own = dataclasses.replace(vocabulary, class_ids=jnp.int32(ids))
        expected.append(segment_canvases(model, own, [canvas], rule)[0][0])
    if parts > 1:
        at_once(monkeypatch, 11 * 3 * 40 * 64)
    labels, _ = segment_canvases(model, vocabulary, canvases, protocol, candidates=candidates)
    compiled_segment.clear_cache()
    assert len(np.unique(labels)) > 5
    for found, wanted, (height, width) in zip(labels, expected, SIZES, strict=True):
        assert np.mean(found[:height, :width] == wanted[:height, :width]) > 0.999


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_regions_are_named_by_their_mean_scores(protocol, parts, monkeypatch):
    vocabulary, model = names(), color_model()
    canvases, truth = pictures(protocol)
    plain = dataclasses.replace(protocol, threshold=0.0)
    _, scores = segment_canvases(model, vocabulary, canvases, plain, with_scores=True)
    if parts > 1:
        at_once(monkeypatch, 11 * 3 * 40 * 64)
    labels, _ = segment_canvases(model, vocabulary, canvases, protocol, regions=truth)
    compiled_segment.clear_cache()
    ids, named = np.asarray(vocabulary.class_ids), set()
    for picture, (height, width) in enumerate(SIZES):
        rows = np.float64(scores[picture, :height, :width])
        if protocol.threshold:
            rows = softmax(rows, axis=-1)
        for region in range(4):
            place = truth[picture, :height, :width] == region
            means = np.where(ids >= 0, rows[place].mean(axis=0), -np.inf)
            certain = not protocol.threshold or means.max() >= protocol.threshold
            wanted = ids[means.argmax()] if certain else 0
            found = np.unique(labels[picture, :height, :width][place])
            assert found.tolist() == [wanted]
            named.add(int(wanted))
        assert (np.asarray(labels[picture])[truth[picture] < 0] == -1).all()
    assert len(named) > 2


class MisnamingSystem(ColorSystem):
    """Proposes a mask for each colour, and gives each the name of another."""

    def mixture(self, features, vocabulary, shape, sizes=None):
        colors = dataclasses.replace(vocabulary, embeddings=color_vocabulary().embeddings)
        masks = jax.nn.sigmoid(20 * super().decode(features, colors, shape)[..., :4] + 10)
        wrong = jnp.roll(jnp.eye(4, len(vocabulary.class_ids)), 1, axis=0)
        return Mixture(masks, jnp.tile(wrong, (len(masks), 1, 1)))

    def decode(self, features, vocabulary, shape, sizes=None):
        return self.mixture(features, vocabulary, shape, sizes).scores()


def misnaming_model():
    return Model.of(MisnamingSystem(rngs=nnx.Rngs(0)), MEAN, STD)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("short_side", [0, 36])
def test_proposals_are_named_by_what_they_cover(short_side, flip):
    protocol = Protocol(short_side=short_side, flip=flip)
    canvases, truth = pictures(protocol)
    labels, _ = segment_canvases(
        misnaming_model(), color_vocabulary(), canvases, protocol, truth=truth
    )
    shown = truth >= 0
    assert np.mean(np.asarray(labels)[shown] == truth[shown]) > 0.9


@pytest.mark.parametrize("short_side", [0, 36])
def test_names_of_proposals_are_shares_of_overlaps(short_side):
    arguments = (misnaming_model(), color_vocabulary())
    protocol = Protocol(short_side=short_side)
    canvases, truth = pictures(protocol)
    truth = np.where(truth < 0, -1, np.roll(truth, 6, axis=2))  # across the masks
    _, plain = segment_canvases(*arguments, canvases, protocol, with_scores=True)
    _, scores = segment_canvases(*arguments, canvases, protocol, with_scores=True, truth=truth)
    for picture, (height, width) in enumerate(SIZES):
        place = (picture, slice(height), slice(width))
        masks = np.roll(plain[place][..., :4], 1, axis=-1)  # each had the name of the one before
        proposed, there = masks > 0.5, truth[place][..., None] == np.arange(4)
        both = np.einsum("hwq,hwc->qc", *(x.astype(float) for x in (proposed, there)))
        overlap = both / (proposed.sum((0, 1))[:, None] + there.sum((0, 1)) - both)
        shares = overlap / np.maximum(overlap.sum(1, keepdims=True), 1e-12)
        np.testing.assert_allclose(scores[place][..., :4], masks @ shares, atol=1e-5)


def test_only_proposals_of_whole_pictures_can_be_named_by_the_truth(monkeypatch):
    whole, windows = Protocol(), Protocol(crop=32, stride=16)
    at_once(monkeypatch, 1)  # many names, which others compare in parts
    for model, protocol in ((color_model(), whole), (misnaming_model(), windows)):
        canvases, truth = pictures(protocol)
        with pytest.raises(UserError, match=r"config\.eval\.oracle='proposals' is for"):
            segment_canvases(model, color_vocabulary(), canvases, protocol, truth=truth)


def test_what_an_oracle_knows():
    truth = jnp.int32([[[0, 2], [2, 3]], [[3, 3], [3, 9]], [[3, 3], [3, 3]]])
    present = known("vocabulary", truth, 4, 3)["candidates"]
    assert present.tolist() == [[True, False, True, False], [True] * 4, [True] * 4]
    assert known("masks", truth, 4, 3)["regions"][0].tolist() == [[0, 2], [2, -1]]
    assert known("proposals", truth, 4, 3)["truth"][0].tolist() == [[0, 2], [2, -1]]
    assert known("", truth, 4, 3) == {}


def noisy(sizes):
    """Pictures whose pixels are so noisy that many are taken for another colour."""
    for index, size in enumerate(sizes):
        image, label = scene(*size, seed=index)
        noise = np.random.default_rng(index).normal(0, 130, image.shape)
        label[:, :20] = label[0, 0]
        yield {"image": np.clip(image + noise, 0, 255).astype(np.uint8), "label": label}


def run(oracle, sizes=((24, 32), (24, 32), (40, 28))):
    return evaluate_segmentation(
        color_model(),
        color_vocabulary(),
        noisy(sizes),
        SPACE,
        Protocol(),
        oracle=oracle,
        batch_size=2,
    )[0]


def test_each_oracle_takes_its_errors_away():
    plain, vocabulary, masks = (run(oracle) for oracle in ("", "vocabulary", "masks"))
    assert plain["aAcc"] < vocabulary["aAcc"] < masks["aAcc"]
    assert [r["protocol"]["oracle"] for r in (plain, vocabulary, masks)] == [
        "",
        "vocabulary",
        "masks",
    ]


@pytest.mark.parametrize("oracle", ["vocabulary", "masks"])
def test_other_pictures_compile_nothing(oracle):
    run(oracle)
    compiled = compiled_segment._cache_size()
    run(oracle, ((24, 32), (24, 32), (24, 32), (24, 32), (40, 28)))
    assert compiled_segment._cache_size() == compiled


def test_unknown_oracle():
    with pytest.raises(UserError, match=r"unknown config\.eval\.oracle 'mask'.*'masks'"):
        run("mask")
