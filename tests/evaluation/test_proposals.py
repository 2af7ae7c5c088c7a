"""Which proposals the report of an evaluation shows."""

import jax.numpy as jnp
import pytest
from fake_system import MEAN, NAMES, STD, ColorSystem, color_vocabulary, scene
from flax import nnx

from ovseg_jax.evaluation.pixels import evaluate_segmentation
from ovseg_jax.inference import Model, Protocol
from ovseg_jax.systems.system import NamedMasks
from ovseg_jax.text.label_space import LabelSpace

pytestmark = pytest.mark.usefixtures("compiling_fast")

SPACE = LabelSpace("colours", tuple((name,) for name in NAMES))
SIZES = ((60, 90), (64, 96), (40, 44)) + ((33, 50),) * 7


class MaskedColors(ColorSystem):
    """Proposes the pixels of each colour, at half the size, and two masks of nothing."""

    proposes_masks = True

    def proposals(self, features, vocabulary):
        best = self.decode(features, vocabulary, features.shape[1:3])[..., : len(NAMES)].argmax(-1)
        rows = jnp.asarray([3, 1, 0, 2, 0, 1])
        masks = (best[:, None] == rows[:, None, None]).at[:, 4:].set(False)[:, :, ::2, ::2]
        scores = jnp.asarray([0.2, 0.8, 0.4, 0.0, 0.9, 0.1])
        batch = len(features)
        return NamedMasks(
            masks.astype(jnp.float32), jnp.tile(rows, (batch, 1)), jnp.tile(scores, (batch, 1))
        )


def run(system, **options):
    examples = (
        dict(zip(("image", "label"), scene(*s, i), strict=True)) for i, s in enumerate(SIZES)
    )
    model, vocabulary = Model.of(system, MEAN, STD), color_vocabulary()
    _, shown = evaluate_segmentation(
        model, vocabulary, examples, SPACE, batch_size=2, report_images=len(SIZES), **options
    )
    return shown


@pytest.mark.parametrize("protocol", [Protocol(), Protocol(short_side=48, crop=32, stride=16)])
def test_the_best_masks_of_the_first_pictures(protocol):
    shown = run(MaskedColors(rngs=nnx.Rngs(0)), protocol=protocol)
    pictures = shown["Pictures"]
    assert [bool(example.proposals) for example in pictures] == [True] * 8 + [False] * 2
    assert not any(example.proposals for example in shown["Best pictures"])
    for example in pictures[:8]:
        scores = [proposal.score for proposal in example.proposals]
        assert scores == sorted(scores, reverse=True)
        for mask, label, score in example.proposals:
            assert score == pytest.approx({1: 0.8, 0: 0.4, 3: 0.2}[label])
            assert mask.shape == example.truth.shape
            wrong = mask ^ (example.truth == label)
            assert mask.any() and wrong.mean() < 0.05  # half the resolution takes the outlines
    labels = {proposal.label for example in pictures for proposal in example.proposals}
    assert labels == {0, 1, 3}  # a score of 0 is none


def test_other_systems_propose_nothing():
    shown = run(ColorSystem(rngs=nnx.Rngs(0)), protocol=Protocol())
    assert not any(example.proposals for example in shown["Pictures"])
