import json

import numpy as np
import pytest
from fake_system import MEAN, NAMES, STD, ColorSystem, ColorTokenizer, color_model, scene
from PIL import Image
from scipy.special import softmax

from ovseg_jax import files, inference, models, predict
from ovseg_jax.errors import UserError
from ovseg_jax.inference import Protocol
from ovseg_jax.pictures import find_pictures, read_picture
from ovseg_jax.predict import Segmenter, load
from ovseg_jax.text.label_space import load_label_space
from ovseg_jax.weights import save_weights

WORDS = "red; green; blue; white"
EVAL = dict(short_side=0, crop=0, stride=0, flip=False, batch_size=4)
MODEL_JSON = {
    "system": {"name": "colors", "clip": {"text": {"context": 1}}},
    "dtype": "float32",
    "image": {"mean": MEAN, "std": STD},
    "vocabulary": {"templates": "a {}"},
    "eval": EVAL,
}


@pytest.fixture
def segmenter():
    return Segmenter(color_model(), ColorTokenizer(), ("a {}",), Protocol(crop=32, stride=16))


@pytest.fixture
def model_folder(tmp_path, monkeypatch):
    """A model folder of the fake system, which no config can name."""
    monkeypatch.setattr(models, "create_system", lambda config, rngs: ColorSystem(rngs=rngs))
    monkeypatch.setattr(models, "folder_tokenizer", lambda *_: ColorTokenizer())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(MODEL_JSON))
    save_weights(folder / "model.safetensors", color_model().params)
    return folder


def test_labels_have_the_size_of_the_picture(segmenter):
    for size in ((50, 66), (33, 90), (20, 20)):
        image, label = scene(*size)
        result = segmenter.segment(image, WORDS)
        assert result.labels.shape == size and result.labels.dtype == np.int32
        assert (result.labels == label).mean() > 0.99
        assert result.names == NAMES and result.scores is None
        assert sum(result.areas().values()) == pytest.approx(1)
        assert list(result.areas().values()) == sorted(result.areas().values(), reverse=True)


def test_words_as_text_or_list_with_synonyms_and_scores(segmenter):
    image, label = scene(40, 40)
    text = segmenter.segment(image, "red, blue; green; white", scores=True)
    listed = segmenter.segment([image], ["red, blue", "green", "white"])
    assert text.names == ("red", "green", "white")
    assert np.array_equal(text.labels, np.asarray([0, 1, 0, 2])[label])
    assert np.array_equal(text.labels, listed[0].labels)
    assert text.scores.shape == (40, 40, 3)
    assert np.array_equal(text.scores.argmax(-1), text.labels)


def test_repeated_calls_reuse_vocabularies_and_programs(segmenter, monkeypatch):
    segmenter.segment(scene(40, 40)[0], WORDS)
    programs = (inference.compiled_segment, inference.encode_vocabulary)
    compiled = [program._cache_size() for program in programs]
    calls = []
    build = predict.build_vocabulary
    monkeypatch.setattr(
        predict, "build_vocabulary", lambda *a, **k: calls.append(a) or build(*a, **k)
    )
    segmenter.segment(scene(41, 38)[0], WORDS)
    assert not calls
    segmenter.segment(scene(41, 38)[0], "red; white")
    assert len(calls) == 1
    assert [program._cache_size() for program in programs] == compiled


@pytest.mark.parametrize("words", ["", " ; ,", [], "red; green; red", "red, green; Green"])
def test_empty_and_repeated_words(segmenter, words):
    with pytest.raises(UserError, match=r"empty|twice"):
        segmenter.segment(scene(20, 20)[0], words)


def test_words_that_the_model_cannot_know(segmenter):
    with pytest.raises(UserError, match=r"never met the word 'puce' \(in 'puce'\)"):
        segmenter.segment(scene(20, 20)[0], "red; puce")


def test_saved_files_have_the_size_of_the_picture(segmenter, tmp_path):
    result = segmenter.segment(scene(50, 66)[0], WORDS)
    paths = result.save(tmp_path / "out", "one")
    labels = Image.open(paths["labels"])
    assert labels.mode == "P" and np.array_equal(np.asarray(labels), result.labels)
    described = json.loads(paths["areas"].read_text())
    assert (described["height"], described["width"]) == (50, 66)
    assert sum(described["pixels"].values()) == 50 * 66
    assert described["areas"] == result.areas()
    assert Image.open(paths["overlay"]).width >= 66


def test_a_full_disk_leaves_nothing(segmenter, tmp_path, monkeypatch):
    result = segmenter.segment(scene(20, 20)[0], WORDS)
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="disk is full; free some space"):
        result.save(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_load_and_segment(model_folder, tmp_path):
    image, label = scene(30, 40)
    Image.fromarray(image).save(tmp_path / "a.png")
    result = load(model_folder).segment(tmp_path / "a.png", WORDS)
    assert np.array_equal(result.labels, label)


def test_folders_that_are_no_model(model_folder, tmp_path):
    with pytest.raises(UserError, match=r"no model folder at .*nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no model\.json"):
        load(tmp_path / "empty")
    (model_folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load(model_folder)


def test_missing_and_damaged_weights(model_folder):
    weights = model_folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-3])
    with pytest.raises(UserError, match=r"model\.safetensors is not a complete safetensors"):
        load(model_folder)
    weights.unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load(model_folder)


def test_weights_of_another_architecture(model_folder):
    save_weights(
        model_folder / "model.safetensors",
        {"colors": np.zeros((7, 3), np.float32), "gain": np.zeros((), np.float32)},
    )
    with pytest.raises(UserError, match=r"colors is \(7, 3\) instead of \(5, 3\)"):
        load(model_folder)
    save_weights(model_folder / "model.safetensors", {"gain": np.zeros((), np.float32)})
    with pytest.raises(UserError, match=r"1 parameters are missing \(colors\)"):
        load(model_folder)


def test_a_model_json_without_a_section(model_folder):
    (model_folder / "model.json").write_text(
        json.dumps({"system": {"name": "colors"}, "dtype": "float32"})
    )
    with pytest.raises(UserError, match=r"model\.json .*lacks .*image"):
        load(model_folder)


def test_pictures_of_every_kind(tmp_path):
    image, _ = scene(20, 30)
    grey = image[..., 0]
    kinds = {
        "rgb.png": Image.fromarray(image),
        "grey.png": Image.fromarray(grey),
        "wide.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "wide.tif": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette.png": Image.fromarray(image).quantize(),
        "alpha.png": Image.fromarray(np.dstack([image, np.full_like(grey, 255)])),
        "both.png": Image.fromarray(np.dstack([grey, np.full_like(grey, 255)]), "LA"),
        "bits.png": Image.fromarray(grey > 128),
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
        found = read_picture(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape == (20, 30, 3)
        if name in ("rgb.png", "alpha.png"):
            assert np.array_equal(found, image)
        if name in ("grey.png", "wide.png", "wide.tif", "both.png"):
            assert np.array_equal(found, np.repeat(grey[..., None], 3, -1))
        assert np.array_equal(read_picture(Image.open(tmp_path / name)), found)


def test_transparent_parts_become_white():
    array = np.zeros((2, 2, 4), np.uint8)
    array[0, 0] = (10, 20, 30, 255)
    found = read_picture(array)
    assert found[0, 0].tolist() == [10, 20, 30] and np.all(found[1] == 255)


def test_exif_orientation(tmp_path):
    image, _ = scene(20, 30)
    picture = Image.fromarray(image)
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png"), np.rot90(image, -1))


def test_unreadable_pictures(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(b"")
    Image.fromarray(scene(64, 64)[0]).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    for name, message in {
        "text.png": "not a picture of a known kind",
        "half.png": "not a picture of a known kind",
        "cut.png": "cannot be read",
        "none.png": "no picture at",
        ".": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=message):
            read_picture(tmp_path / name)
    for array in (
        np.zeros((4, 4)),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ):
        with pytest.raises(UserError, match="a picture"):
            read_picture(array)


def test_template_names(segmenter):
    image, label = scene(20, 20)
    assert np.array_equal(segmenter.segment(image, WORDS, "the {}").labels, label)
    assert np.array_equal(segmenter.segment(image, WORDS, ["a {}", "the {}"]).labels, label)


def test_many_pictures_of_several_sizes_come_back_in_order(segmenter):
    sizes = [(40, 40), (70, 30), *[(40 + i, 38) for i in range(9)]]
    pictures = [scene(*size, seed=i)[0] for i, size in enumerate(sizes)]
    together = segmenter.segment(pictures, WORDS, scores=True)
    for picture, result in zip(pictures, together, strict=True):
        alone = segmenter.segment(picture, WORDS, scores=True)
        assert np.array_equal(result.image, picture)
        assert np.array_equal(result.labels, alone.labels)
        np.testing.assert_allclose(result.scores, alone.scores, atol=1e-5)


def test_find_pictures(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a.JPG", "notes.txt", "deep/c.webp"):
        (tmp_path / name).touch()
    folder = str(tmp_path)
    assert find_pictures([folder]) == [f"{folder}/a.JPG", f"{folder}/b.png"]
    assert find_pictures([f"{folder}/**/*.webp", "x.png"]) == [f"{folder}/deep/c.webp", "x.png"]
    with pytest.raises(UserError, match=r"no picture in .*\*\.gif"):
        find_pictures([f"{folder}/*.gif"])
    with pytest.raises(UserError, match="no pictures given"):
        find_pictures([])


def test_embeddings_outlive_the_segmenter(segmenter, tmp_path):
    segmenter.cache = tmp_path
    first = segmenter._vocabulary((("red",), ("green",)), ("a {}",))
    (file,) = tmp_path.iterdir()
    np.save(file, 7 * np.load(file))
    segmenter._vocabulary.cache_clear()
    again = segmenter._vocabulary((("red",), ("green",)), ("a {}",))
    np.testing.assert_array_equal(again.embeddings, 7 * np.asarray(first.embeddings))


def test_what_is_none_of_the_names(segmenter):
    image = scene(40, 40)[0]
    words = "red; green"
    best = segmenter.segment(image, words)
    found = segmenter.segment(image, words, background="threshold", threshold=0.7, scores=True)
    assert found.names == ("background", "red", "green")
    named = found.labels > 0
    np.testing.assert_array_equal(found.labels[named], best.labels[named] + 1)
    probable = softmax(segmenter.segment(image, words, scores=True).scores, -1).max(-1) >= 0.7
    assert np.mean(named == probable) > 0.99 and 0 < named.mean() < 1
    assert found.scores.shape == (40, 40, 3) and np.all(found.scores[..., 0] == np.float32(0.7))
    compiled = inference.compiled_segment._cache_size()
    segmenter.segment(image, words, background="threshold", threshold=0.6, scores=True)
    assert inference.compiled_segment._cache_size() == compiled


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ("red; green", dict(background="sky"), "unknown background 'sky'"),
        ("red; green", dict(background="threshold", threshold=2), "is no probability"),
        ("red; green", dict(threshold=0.5), "goes with the background 'threshold'"),
        ("red", dict(background="threshold"), "one name is always the most probable"),
        ("red; Background", dict(background="threshold"), "a background of its own"),
        (load_label_space("voc21"), dict(background="words"), "a background of its own"),
        ("red", dict(background="words"), "knows no names of scenes"),
    ],
)
def test_backgrounds_that_make_no_sense(segmenter, words, options, message):
    with pytest.raises(UserError, match=message):
        segmenter.segment(scene(20, 20)[0], words, **options)


def test_background_words_are_those_that_the_model_knows(segmenter, monkeypatch):
    monkeypatch.setattr(predict, "scene_words", lambda: ("sky", "white", "green", "wall"))
    image, label = scene(40, 40)
    result = segmenter.segment(image, "red; green; blue", background="words")
    assert result.names == ("background", "red", "green", "blue")
    wanted = np.asarray([("red", "green", "blue", "white").index(name) for name in NAMES])
    np.testing.assert_array_equal(result.labels, ((wanted + 1) % 4)[label])


def test_dense_features_of_whole_pictures():
    segmenter = Segmenter(color_model(), ColorTokenizer(), ("a {}",), Protocol(short_side=20))
    picture = scene(40, 61)[0]
    features = segmenter.encode_dense(picture)
    assert features.shape == (20, 30, 3)  # of 20 x 31 pixels
    with pytest.raises(UserError, match="smaller than a patch of 2 pixels"):
        Segmenter(color_model(), ColorTokenizer(), ("a {}",), Protocol()).encode_dense(picture[:1])


def test_scores_are_saved(segmenter, tmp_path):
    result = segmenter.segment(scene(20, 30)[0], WORDS, scores=True)
    with np.load(result.save(tmp_path)["scores"]) as saved:
        assert saved["names"].tolist() == list(NAMES)
        np.testing.assert_allclose(saved["scores"], result.scores, rtol=1e-2, atol=1e-3)
