"""Episodes, by systems of both kinds, against counts of single pictures."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from fake_system import COLORS, MEAN, NAMES, STD, ColorSystem, scene
from flax import nnx
from ml_collections import ConfigDict

from data_pipelines.datasets import prepare
from ovseg_jax.errors import UserError
from ovseg_jax.evaluate import check_evaluation, evaluate_run
from ovseg_jax.evaluation.episodes import episode_space, evaluate_episodes
from ovseg_jax.inference import Model, Protocol, compiled_segment
from ovseg_jax.models import on_dataset
from ovseg_jax.text.label_space import LabelSpace
from ovseg_jax.text.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("compiling_fast")

WORDS = LabelSpace("colours", (*((name,) for name in NAMES), ("grey",)))
FOLD = (0, 2, 4)  # red, blue, and grey, which no episode asks for
SPACE = episode_space(WORDS, FOLD, ("others",))


class OneByOne(ColorSystem):
    """The probability of a colour by itself; wrong as soon as another name stands beside it."""

    scores_are_probabilities = True
    independent_names = False

    def decode(self, image, vocabulary, shape, sizes=None):
        alone = (vocabulary.class_ids >= 0).sum() == 1
        return jnp.where(alone, super().decode(image, vocabulary, shape) + 1, 0.0)


class Undecided(ColorSystem):
    """One half for every name."""

    scores_are_probabilities = True

    def decode(self, image, vocabulary, shape, sizes=None):
        return jnp.full((*image.shape[:3], len(vocabulary.class_ids)), 0.5)


def model_of(system) -> Model:
    return Model.of(system(rngs=nnx.Rngs(0)), MEAN, STD)


def vocabulary() -> Vocabulary:
    """Everything else is what is white or green; blue has a synonym that looks like white."""
    words = ["white", "green", "red", "blue", "white", "red"]
    return Vocabulary(
        jnp.float32([COLORS[word] for word in words]),
        jnp.int32([0, 0, 1, 3, 3, 5]),
        jnp.zeros(len(words), bool),
    )


def single(words: Vocabulary) -> Vocabulary:
    """Without the synonym."""
    return jax.tree.map(lambda rows: rows[np.array([0, 1, 2, 3, 5])], words)


def episodes(sizes=((24, 32), (24, 32), (40, 28), (24, 32), (24, 32))):
    for index, size in enumerate(sizes):
        image, label = scene(*size, seed=index)
        asked = (0, 2)[index % 2]
        mask = (label == asked).astype(np.uint8)
        mask[:, :3] = 255
        mask[-3:] = 1
        yield {"image": image, "label": mask, "class_id": np.int32(asked)}
    yield {"image": image, "label": np.zeros(size, np.uint8), "class_id": np.int32(0)}
    yield {"image": image, "label": mask, "class_id": np.int32(0), "valid": False}


def run(system=ColorSystem, words=None, protocol=None, examples=None, **options):
    return evaluate_episodes(
        model_of(system),
        words or vocabulary(),
        episodes() if examples is None else examples,
        SPACE,
        protocol or Protocol(),
        **{"batch_size": 4, "report_images": 9, **options},
    )


def by_hand(predict, metrics):
    """Sums of (intersection, union) of foreground and background by class, as HSNet forms them."""
    sums = {asked: np.zeros((2, 2)) for asked in FOLD}
    for example in episodes():
        kept, target = example["label"] != 255, example["label"] == 1
        if not example.get("valid", True) or (metrics == "fusioner" and not target.any()):
            continue
        found = predict(example["image"], int(example["class_id"]))
        for row, (a, b) in enumerate(((found, target), (~found, ~target))):
            sums[int(example["class_id"])][row] += (a & b & kept).sum(), ((a | b) & kept).sum()
    iou = {k: both[0, 0] / both[0, 1] if both[0, 1] else math.nan for k, both in sums.items()}
    if metrics == "hsnet":
        iou = {k: 0.0 if math.isnan(value) else value for k, value in iou.items()}
    total = sum(sums.values())
    return iou, float(np.nanmean(list(iou.values()))), (total[:, 0] / total[:, 1]).mean()


def distance(image, names):
    colors = np.float32([COLORS[name] for name in names])
    return ((np.float32(image)[..., None, :] - colors) ** 2).sum(-1).min(-1) / 255**2


def beats_the_others(image, asked):
    own = distance(image, ("red",) if asked == 0 else ("blue", "white"))
    return own < distance(image, ("white", "green"))


def is_near(image, asked):
    return distance(image, ("red",) if asked == 0 else ("blue",)) < 0.5


@pytest.mark.parametrize("metrics", ["fusioner", "hsnet"])
@pytest.mark.parametrize(
    ("system", "words", "predict"),
    [(ColorSystem, vocabulary(), beats_the_others), (OneByOne, single(vocabulary()), is_near)],
)
def test_scores_are_those_of_the_protocols(system, words, predict, metrics):
    result, _ = run(system, words, metrics=metrics)
    iou, mean, binary = by_hand(predict, metrics)
    expected = dict(zip(("red", "blue", "grey"), iou.values(), strict=True))
    assert result["IoU"] == pytest.approx({k: 100 * v for k, v in expected.items()}, nan_ok=True)
    assert result["mIoU"] == pytest.approx(100 * mean)
    assert result["FB-IoU"] == pytest.approx(100 * binary)
    assert result["images"] == 6 and result["protocol"]["metrics"] == metrics
    assert result["protocol"]["unseen"] == ["red", "blue", "grey"]
    assert result["protocol"]["foreground"] == (
        "beats the background" if system is ColorSystem else "reaches the threshold"
    )


def test_pictures_show_background_and_the_class_asked_for():
    _, shown = run()
    for example in shown["Pictures"]:
        assert set(np.unique(example.truth)) <= {-1, 0, 1, 3}
        assert set(np.unique(example.prediction)) <= {0, 1, 3}
    assert math.isnan(shown["Pictures"][-1].score) or shown["Pictures"][-1].score >= 0


def test_one_half_is_background_unless_it_is_the_threshold():
    assert run(Undecided)[0]["IoU"]["red"] == 0
    assert run(Undecided, protocol=Protocol(threshold=0.5))[0]["IoU"]["red"] > 0
    assert run(Undecided, protocol=Protocol(threshold=0.6))[0]["IoU"]["red"] == 0


def test_rules_for_probabilities_do_not_touch_other_scores():
    protocol = Protocol(threshold=0.99, area=0.5)
    result, _ = run(protocol=protocol)
    assert json.dumps(result) == json.dumps(run()[0])
    assert result["protocol"]["threshold"] == result["protocol"]["area"] == 0
    assert run(OneByOne, single(vocabulary()), protocol)[0]["protocol"]["area"] == 0.5


def test_one_program_serves_all_classes():
    red, blue = ([e for e in episodes() if e["class_id"] == k] for k in (0, 2))
    run(examples=red)
    compiled = compiled_segment._cache_size()
    run(examples=blue)
    run(examples=red[:1] + blue[:2])
    assert compiled_segment._cache_size() == compiled


@pytest.mark.parametrize("metrics", ["mmseg", "detectron2_legacy"])
def test_metrics_of_all_classes_are_refused(metrics):
    with pytest.raises(UserError, match=f"'{metrics}' are for pictures .* to fusioner or hsnet"):
        run(metrics=metrics)


# --- Data sets --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pascal5i_1", "coco20i_3", "fss1000"])
def test_a_trained_model_on_episodes(name, tiny_run, tmp_path):
    prepare(name, tmp_path / "data", None, 1)
    config = tiny.config(eval__dataset=name, eval__root=str(tmp_path / "data"))
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    result = evaluate_run(config, run)
    asked = len(result["IoU"])
    if name == "pascal5i_1":
        config.eval.metrics = "hsnet"
        evaluate_run(config, run)
        assert (run / f"result_{name}_hsnet.json").is_file()
        assert "fusioner" in (run / f"result_{name}.json").read_text()
    assert asked == {"pascal5i_1": 5, "coco20i_3": 20, "fss1000": 240}[name]
    assert 0 <= result["mIoU"] <= 100 and 0 <= result["FB-IoU"] <= 100
    assert result["protocol"]["threshold"] == pytest.approx(0.5)  # ZegCLIP's are probabilities
    assert result["training_free"]["protocol"]["foreground"] == "beats the background"
    page = (run / f"report_{name}" / "index.html").read_text()
    assert "FB-IoU" in page and f"{asked} classes" in page


def test_each_protocol_has_its_lists(tmp_path):
    def source(name, metrics):
        fields = dict(dataset=name, root="", metrics=metrics)
        config = ConfigDict(dict(eval=fields, vocabulary=dict(label_space="")))
        return on_dataset(config).data.eval.source

    assert source("pascal5i_2", "hsnet").lists == "hsnet"
    assert source("coco20i_0", "fusioner").lists == "fusioner"
    assert "lists" not in source("pascal5i_0", "") and "lists" not in source("fss1000", "hsnet")
    assert source("fss1000", "").split == "test" and source("pascal5i_0", "").split == "val"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(eval__metrics="mmseg"), "'mmseg' are for pictures that are labelled"),
        (dict(eval__oracle="masks"), "oracles and Boundary IoU need pictures"),
        (dict(eval__boundary=0.02), "oracles and Boundary IoU need pictures"),
        (dict(eval__background_words=()), r"config\.eval\.background_words is empty"),
    ],
)
def test_mistakes_are_found_before_a_model_is_at_work(overrides, message, tmp_path):
    prepare("pascal5i", tmp_path, None, 1)
    config = tiny.config(eval__dataset="pascal5i_0", eval__root=str(tmp_path), **overrides)
    with pytest.raises(UserError, match=message):
        check_evaluation(on_dataset(config))
