"""Prompt learning: what counts in its loss, what trains, how its regions are evaluated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.evaluation.regions import count_regions, region_figures
from ovseg_jax.inference import Model
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, ViTConfig
from ovseg_jax.params import merge_model, split_model
from ovseg_jax.systems import create_system
from ovseg_jax.systems.prompt_learning import PromptLearning, PromptLearningConfig
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import split_trainable

CLIP = CLIPConfig(
    8,
    ViTConfig(image_size=24, patch_size=8, width=12, layers=1, heads=2),
    TextConfig(context=10, vocab_size=11, width=8, layers=1, heads=2),
)
CONFIG = PromptLearningConfig(CLIP, prefix=3, suffix=1, full_stop=2)


@pytest.fixture(scope="module")
def system():
    return PromptLearning(CONFIG, rngs=nnx.Rngs(0))


def vocabulary(system, rows=4):
    tokens = jnp.asarray([[[9, 3, 10, 0]], [[9, 4, 5, 10]], [[9, 6, 10, 0]], [[9, 6, 10, 0]]])[
        :rows
    ]
    ids = jnp.asarray([7, 3, 5, -1])[:rows]
    return Vocabulary(system.encode_vocabulary(tokens), ids, ids == 7, tokens)


def batch():
    rng = np.random.default_rng(0)
    label = np.zeros((3, 32, 24), np.int32)
    label[:2, 4:20, 3:18], label[:, :4] = 1, 255
    return {
        "image": jnp.asarray(rng.normal(size=(3, 32, 24, 3)), jnp.float32),
        "label": jnp.asarray(label),
        "class_id": jnp.asarray([5, 7, 3]),
    }


def taken(arrays, rows):
    return {key: value[jnp.asarray(rows)] for key, value in arrays.items()}


def test_only_what_can_be_learned_from_counts(system):
    names = vocabulary(system)
    value, scalars = system.loss(batch(), names, None)
    seen = taken(batch(), [0, 1])  # the third region has no pixel
    np.testing.assert_allclose(value, system.loss(seen, names, None)[0], rtol=1e-5)
    other = seen | {"class_id": jnp.asarray([5, 6])}  # and nobody knows class 6
    first = system.loss(taken(seen, [0]), names, None)[0]
    np.testing.assert_allclose(system.loss(other, names, None)[0], first, rtol=1e-5)
    assert 0 <= scalars["accuracy"] <= 1


def test_padding_of_the_vocabulary_does_not_compete(system):
    value, _ = system.loss(batch(), vocabulary(system), None)
    np.testing.assert_allclose(
        value, system.loss(batch(), vocabulary(system, rows=3), None)[0], rtol=1e-5
    )


def test_what_is_outside_of_the_mask_is_not_seen(system):
    names, arrays = vocabulary(system), batch()
    inside = (arrays["label"] == 1)[..., None]
    changed = arrays | {"image": jnp.where(inside, arrays["image"], 9.0)}
    np.testing.assert_allclose(
        system.classify(arrays, names)[:2], system.classify(changed, names)[:2], atol=1e-4
    )
    painted = system.paint(arrays["image"], arrays["label"] == 1)
    np.testing.assert_allclose(painted[0, 0, 0], CONFIG.fill)


def test_the_prompt_alone_trains_and_learns(system):
    graphdef, params, _ = split_model(system)
    trainable, frozen = split_trainable(params, system.param_groups())
    assert {path: value.shape for path, value in trainable.items()} == {
        "prompt/prefix": (3, 8),
        "prompt/suffix": (1, 8),
    }
    names = vocabulary(system)

    @jax.jit
    def step(trainable):
        def loss_of(trainable):
            return merge_model(graphdef, {**trainable, **frozen}).loss(batch(), names, None)[0]

        value, grads = jax.value_and_grad(loss_of)(trainable)
        return value, {path: trainable[path] - 1e-3 * grads[path] for path in trainable}

    values = []
    for _ in range(10):
        value, trainable = step(trainable)
        values.append(float(value))
    assert values[-1] < values[0]


def test_regions_are_counted_by_class(system):
    names = vocabulary(system)
    names = dataclasses.replace(names, seen=names.class_ids == 7)
    arrays = {key: np.asarray(value) for key, value in batch().items()}
    arrays["valid"] = np.asarray([True, True, True])
    model = Model.of(system, np.zeros(3), np.ones(3))
    counts = count_regions(model, names, [arrays, arrays | {"valid": np.zeros(3, bool)}])
    best = np.asarray(system.classify(batch(), names)).argmax(-1)
    np.testing.assert_array_equal(counts[1].pictures, [1, 0, 1, 0])  # rows of classes 7, 3, 5
    np.testing.assert_array_equal(counts[1].hits, [best[1] == 0, 0, best[0] == 2, 0])
    np.testing.assert_array_equal(counts[5].hits, [1, 0, 1, 0])
    figures = region_figures(counts, np.asarray(names.seen))
    assert figures["regions"] == 2 and figures["top_5"] == 100
    assert figures["top_5_classes"] == 50  # two of the four rows have no region
    assert figures["top_1_seen"] == 100 * (best[1] == 0)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="nothing to learn"):
        dataclasses.replace(CONFIG, prefix=0, suffix=0)
    system = dict(name="prompt_learning", clip=dataclasses.asdict(CLIP), prefixes=3)
    config = ConfigDict(dict(system=system, dtype="float32"))
    with pytest.raises(UserError, match="did you mean 'prefix'"):
        create_system(config, nnx.Rngs(0))
