import itertools
import json
import math
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from fake_system import MEAN, NAMES, STD, color_model, color_vocabulary, scene
from ml_collections import ConfigDict

from configs.common import evaluation
from data_pipelines import sources
from data_pipelines.datasets import prepare
from data_pipelines.sources import create_source
from data_pipelines.sources.voc import VOCSource
from ovseg_jax import files, models
from ovseg_jax.errors import UserError
from ovseg_jax.evaluate import check_evaluation, evaluate_model, evaluate_run
from ovseg_jax.evaluation import pixels
from ovseg_jax.evaluation.pixels import evaluate_segmentation
from ovseg_jax.evaluation.readouts import READOUTS
from ovseg_jax.evaluation.results import describe_protocol, write_result
from ovseg_jax.evaluation.whole_pictures import evaluate_retrieval, evaluate_zero_shot
from ovseg_jax.inference import Protocol, compiled_segment
from ovseg_jax.metrics import mmseg
from ovseg_jax.metrics.confusion import confusion_matrix
from ovseg_jax.params import digest
from ovseg_jax.text.label_space import LabelSpace

SPACE = LabelSpace("colours", tuple((name,) for name in NAMES), seen=(0, 1), unseen=(2, 3))


def examples(sizes, wrong=0):
    for index, size in enumerate(sizes):
        image, label = scene(*size, seed=index)
        label[:2, :2] = 255
        label[-1:, :wrong] = (label[-1:, :wrong] + 1) % len(NAMES)
        yield {"image": image, "label": label, "valid": True}
    yield {"image": image, "label": label, "valid": False}


def run(sizes, protocol=None, **options):
    return evaluate_segmentation(
        color_model(),
        color_vocabulary(),
        examples(sizes, wrong=3),
        SPACE,
        protocol or Protocol(),
        **{"batch_size": 4, **options},
    )


def test_every_valid_pixel_counts_once():
    seen = []
    original = pixels._count
    evaluate_count = lambda *args: seen.append(original(*args)) or seen[-1]  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_count", evaluate_count)
        result, shown = run([(24, 32)] * 5 + [(40, 28)], report_images=3)
    assert sum(int(matrix.sum()) for matrix, _ in seen) == 5 * 24 * 32 + 40 * 28 - 6 * 4
    assert result["images"] == 6 and len(shown["Pictures"]) == 3 and len(seen) == 3
    assert result["aAcc"] == pytest.approx(100 * (1 - 6 * 3 / (5 * 24 * 32 + 40 * 28 - 6 * 4)))
    assert set(result["IoU"]) == set(NAMES)
    assert result["mIoU"] == pytest.approx(np.mean(list(result["IoU"].values())))
    seen_iou, unseen_iou = result["mIoU_seen"], result["mIoU_unseen"]
    assert result["hIoU"] == pytest.approx(2 / (1 / seen_iou + 1 / unseen_iou))
    assert result["protocol"]["unseen"] == ["blue", "white"]


def test_batches_do_not_change_the_result_and_the_last_one_compiles_nothing():
    result, _ = run([(24, 32)] * 5, batch_size=5)
    compiled = compiled_segment._cache_size()
    again, _ = run([(24, 32)] * 3 + [(24, 32)] * 2, batch_size=4)
    assert compiled_segment._cache_size() <= compiled + 1
    assert again == result


def test_pictures_are_ranked_by_their_own_mean_iou():
    _, shown = run([(24, 32), (40, 28), (8, 8)], report_images=2, batch_size=2)
    first, best, worst = shown.values()
    assert len(first) == len(best) == len(worst) == 2
    assert best[0].score > worst[0].score and worst[0].truth.shape == (8, 8)
    for example in (*first, *best, *worst):
        matrix = confusion_matrix(example.truth, example.prediction, len(NAMES), 255)
        iou = mmseg.scores(np.asarray(matrix))["IoU"]
        assert example.score == pytest.approx(100 * np.nanmean(iou), rel=1e-5)


def test_confusions_are_the_most_frequent_errors():
    result, _ = run([(24, 32)] * 3)
    errors = result["confusions"]
    assert sum(entry["pixels"] for entry in errors) == 3 * 3
    assert [entry["pixels"] for entry in errors] == sorted(
        (entry["pixels"] for entry in errors), reverse=True
    )
    for entry in errors:
        assert entry["true"] != entry["predicted"] and 0 < entry["share"] < 100


def test_the_protocol_tells_queries_with_commas_from_synonyms():
    single, several = (
        describe_protocol(LabelSpace("roads", (words, ("sky",)), background=1), Protocol())
        for words in (("road, route",), ("road", "route"))
    )
    assert single["queries"] == ["road, route", "sky"]
    assert several["queries"] == [["road", "route"], "sky"]
    assert several["classes"] == ["road", "sky"] and several["background"] == "sky"


def test_resized_pictures_are_scored_at_their_own_size():
    protocol = Protocol(short_side=48, crop=48, stride=32)
    result, shown = run([(24, 40), (30, 30)], protocol, report_images=9)
    assert result["aAcc"] > 95
    for example in itertools.chain(*shown.values()):
        assert example.image.shape[:2] == example.truth.shape == example.prediction.shape
        assert (example.truth == example.prediction).mean() > 0.9


@pytest.mark.parametrize("metrics", READOUTS)
def test_metrics_decide_about_absent_classes(metrics):
    """Of five classes one is predicted but never labelled, one neither."""
    space = LabelSpace("colours", (*SPACE.classes, ("grey",)), seen=(0, 1), unseen=(2, 3, 4))

    def wrong():
        for example in examples([(24, 32)]):
            example["label"][example["label"] == 3] = 2
            yield example

    result, _ = evaluate_segmentation(
        color_model(), color_vocabulary(), wrong(), space, Protocol(), metrics=metrics, batch_size=1
    )
    iou = [result["IoU"][name] for name in space.names]
    assert result["protocol"]["metrics"] == metrics and result["protocol"]["absent_classes"]
    assert iou[3] == 0 if metrics == "mmseg" else math.isnan(iou[3])
    counted = 3 if metrics == "detectron2_current" else 4
    assert result["mIoU"] == pytest.approx(sum(iou[:3]) / counted)
    assert result["mIoU_unseen"] == pytest.approx(iou[2] / (counted - 2))
    assert math.isnan(iou[4])


def test_unknown_metrics():
    with pytest.raises(UserError, match=r"'mIoU'; config\.eval\.metrics is mmseg or detectron2"):
        run([(24, 32)], metrics="mIoU")


def test_result_file_is_json_without_nan_and_survives_a_full_disk(tmp_path, monkeypatch):
    path = write_result(
        tmp_path / "result.json", {"mIoU": float("nan"), "IoU": {"a": 1.5}, "names": ("a",)}
    )
    assert json.loads(path.read_text()) == {"mIoU": None, "IoU": {"a": 1.5}, "names": ["a"]}
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(UserError, match="disk is full"):
        write_result(tmp_path / "result.json", {"mIoU": 3.0})
    assert json.loads(path.read_text())["mIoU"] is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def full_disk(_):
    raise OSError(28, "No space left on device")


def retrieval_batch(features, tokens, valid=None):
    batch = {"image": features, "text": tokens}
    return batch | ({} if valid is None else {"valid": valid})


def test_retrieval_ranks():
    features = np.eye(4, dtype=np.float32)
    tokens = np.arange(4, dtype=np.int32)[:, None]

    def encode_text(tokens):  # the captions of 2 and 3 point at each other's pictures
        return jnp.asarray(2 * features[[0, 1, 3, 2]][tokens[:, 0]] + 0.1)

    batches = [
        retrieval_batch(features[:3], tokens[:3]),
        retrieval_batch(features[[3, 0]], tokens[[3, 0]], np.asarray([True, False])),
    ]
    result = evaluate_retrieval(jnp.asarray, encode_text, batches, ranks=(1, 4))
    assert result == {"R@1": 50.0, "R@4": 100.0, "pictures": 4}
    same = retrieval_batch(features, np.zeros((4, 1), np.int32))
    assert evaluate_retrieval(jnp.asarray, encode_text, [same])["R@1"] == 100.0


def test_retrieval_without_information_is_not_perfect():
    batch = retrieval_batch(np.ones((4, 2), np.float32), np.arange(4)[:, None])
    result = evaluate_retrieval(jnp.asarray, lambda t: jnp.ones((len(t), 2)), [batch])
    assert result["R@1"] == 0.0


def test_zero_shot_accuracy():
    vocabulary = color_vocabulary()
    colors = np.asarray(vocabulary.embeddings)[:4]
    ground = colors[3] + 0.1 * colors[2]  # looks most like a name that is no object's
    batch = {
        "image": np.stack([*colors[:3], ground, colors[0]]),
        "class_id": np.asarray([0, 1, 2, 2, 3]),
        "valid": np.asarray([True, True, True, True, False]),
    }
    unit = vocabulary.embeddings / jnp.maximum(
        jnp.linalg.norm(vocabulary.embeddings, axis=-1, keepdims=True), 1e-9
    )
    vocabulary = type(vocabulary)(unit, vocabulary.class_ids, vocabulary.seen)
    result = evaluate_zero_shot(jnp.asarray, vocabulary, [batch], unseen=(2,))
    assert result == {
        "accuracy": 100.0,
        "accuracy_unseen": 100.0,
        "accuracy_all_names": 75.0,
        "pictures": 4,
    }
    batch["class_id"] = np.asarray([0, 1, 1, 2, 3])
    assert evaluate_zero_shot(jnp.asarray, vocabulary, [batch], unseen=(1,))["accuracy"] == 75.0
    result = evaluate_zero_shot(jnp.asarray, vocabulary, [batch])
    assert math.isnan(result["accuracy_unseen"])


def test_classes_of_one_name_are_told_apart():
    space = LabelSpace("beds", (("bed",), ("lamp",), ("bed",)))
    assert space.unique_names == ("bed", "lamp", "bed (2)")


def run_config():
    clip = dict(
        embed_dim=8,
        image=dict(image_size=32, patch_size=16, width=8, layers=1, heads=1, pool="mean"),
        text=dict(context=28, vocab_size=97, width=8, layers=1, heads=1),
    )
    source = dict(name="shapes", split="test", size=5, canvas=32, objects="single")
    return ConfigDict(
        dict(
            system=dict(name="clip", clip=clip),
            dtype="float32",
            pretrained="",
            seed=0,
            unreadable="raise",
            image=dict(mean=MEAN, std=STD),
            vocabulary=dict(label_space="shapes", templates="shapes", tokenizer="shapes"),
            data=dict(
                eval=dict(source=source, transforms=()),
                retrieval=dict(source=source, transforms=(dict(name="tokenize"),)),
                zero_shot=dict(source=source, transforms=()),
            ),
            eval=evaluation(
                batch_size=4, short_side=0, crop=32, stride=16, report_images=2, training_free=True
            ),
        )
    )


def test_evaluating_a_run_leaves_its_result_and_report(tmp_path, monkeypatch):
    config = run_config()
    model = models.create_model(config, *models.initialize_model(config))
    monkeypatch.setattr(models, "load_run", lambda *_: model)
    (tmp_path / "model.json").write_text(json.dumps({"notes": {"warning": "nobody trained it"}}))
    result = evaluate_run(config, tmp_path)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["warning"] == "nobody trained it"
    assert saved["images"] == 5 and saved["aAcc"] == result["aAcc"]
    assert saved["retrieval"]["pictures"] == saved["zero_shot"]["pictures"] == 5
    assert saved["training_free"]["IoU"] == saved["IoU"]  # the system is the read-out itself
    assert saved["protocol"]["templates"] == ["a photo of a {}"]
    assert saved["protocol"]["transforms"] == []
    assert saved["protocol"]["weights"] == digest(model.params)
    # Two first, best and worst ones; picture, truth and prediction of each.
    assert len(list((tmp_path / "report/pictures").iterdir())) == 3 * 2 * 3
    assert "striped star" in (tmp_path / "report/index.html").read_text()


class Damaged:
    """A source whose second example cannot be read."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index == 1:
            raise UserError("the file is damaged")
        return self.source[index]


def test_every_part_of_an_evaluation_counts_what_it_cannot_read(monkeypatch):
    config = run_config()
    config.unreadable = "skip"
    model = models.create_model(config, *models.initialize_model(config))
    monkeypatch.setattr(sources, "create_source", lambda spec: Damaged(create_source(spec)))
    result, _ = evaluate_model(config, model)
    assert result["images"] == 4 and result["unreadable"] == 3
    assert result["retrieval"]["pictures"] == result["zero_shot"]["pictures"] == 4


@pytest.mark.parametrize("boundary", [-0.1, 1.0, math.nan])
def test_boundaries_wider_than_a_picture(boundary):
    with pytest.raises(UserError, match=r"config\.eval\.boundary is .* less than 1"):
        check_evaluation(tiny.config(eval__boundary=boundary))


def test_the_digest_sees_every_change():
    params = {"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}
    assert digest(params) == digest(dict(reversed(params.items())))
    for changed in ({"c": params["b"]}, {"a": np.zeros((3, 1), np.float32)}, {"b": np.float32(1)}):
        assert digest(params | changed) != digest(params)


def test_proposals_are_asked_of_a_system_that_makes_some():
    config = tiny.config()
    config.eval.oracle = "proposals"
    with pytest.raises(UserError, match="proposed masks, and zegclip proposes none"):
        check_evaluation(config)


def test_another_data_set_by_its_name(tiny_run, tmp_path):
    workdir = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    prepare("voc", tmp_path / "voc", None, 2)
    root = dict(eval__root=str(tmp_path / "voc"))
    result = evaluate_run(tiny.config(eval__dataset="voc20", **root), workdir)
    assert result["images"] == 2 and len(result["IoU"]) == 20 and "aeroplane" in result["IoU"]
    assert result["protocol"]["data"]["name"] == "voc"
    assert (workdir / "result_voc20.json").is_file()
    assert (workdir / "report_voc20" / "index.html").is_file()
    assert not (workdir / "result.json").exists()
    broken = Path(VOCSource(str(tmp_path / "voc"), "val").pairs[0].image)
    broken.write_bytes(broken.read_bytes()[:99])
    with pytest.raises(UserError, match=broken.name):
        evaluate_run(tiny.config(eval__dataset="voc20", **root), workdir)
    config = tiny.config(eval__dataset="voc20", unreadable="skip", **root)
    result = evaluate_run(config, workdir)
    assert (result["images"], result["unreadable"]) == (1, 1)
    before = (workdir / "result_voc20.json").read_text()
    config.eval.oracle = "masks"
    result = evaluate_run(config, workdir)
    assert (workdir / "result_voc20.json").read_text() == before
    saved = json.loads((workdir / "result_voc20_masks.json").read_text())
    assert saved["protocol"]["oracle"] == "masks" and saved["aAcc"] == result["aAcc"]
    assert (workdir / "report_voc20_masks" / "index.html").is_file()
    with pytest.raises(UserError, match="did you mean 'voc2"):
        evaluate_run(tiny.config(eval__dataset="voc2", **root), workdir)
    with pytest.raises(UserError, match="has captions and no classes"):
        evaluate_run(tiny.config(eval__dataset="cc12m", **root), workdir)
