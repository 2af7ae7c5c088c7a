import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_system import color_model, color_vocabulary, scene
from scipy.special import softmax

from data_pipelines.transforms.detectron2 import ResizeShortestEdge
from ovseg_jax import inference
from ovseg_jax.errors import UserError
from ovseg_jax.inference import (
    Model,
    Protocol,
    compiled_segment,
    lay_on_canvas,
    resized_size,
    segment_canvases,
)
from ovseg_jax.ops.pamr import pamr
from ovseg_jax.ops.resize import interpolation_matrix, resize, resize_traced
from ovseg_jax.ops.sliding import sliding_scores
from ovseg_jax.ops.windows import num_windows
from ovseg_jax.text.vocabulary import Vocabulary

GOLDEN = Path(__file__).parents[2] / "shared/golden/metrics/mmseg_slide_tta.npz"


def predict_by_color(model, vocabulary):
    return lambda windows: model.system().predict(windows, vocabulary)


def sliding_reference(predict, image, crop, stride):
    """mmsegmentation's loop over one picture, in numpy."""
    sums = count = 0.0
    height, width = image.shape[:2]
    for row in range(num_windows(height, crop, stride)):
        for column in range(num_windows(width, crop, stride)):
            y = max(min(row * stride, height - crop), 0)
            x = max(min(column * stride, width - crop), 0)
            scores = np.asarray(predict(image[None, y : y + crop, x : x + crop]))[0]
            if np.ndim(sums) == 0:
                sums = np.zeros((height, width, scores.shape[-1]))
                count = np.zeros((height, width, 1))
            sums[y : y + crop, x : x + crop] += scores
            count[y : y + crop, x : x + crop] += 1
    return sums / count


@pytest.mark.parametrize("window_batch", [1, 5, 100])
def test_sliding_scores_equal_the_loop(window_batch):
    model, vocabulary = color_model(context=1.0), color_vocabulary()
    predict = predict_by_color(model, vocabulary)
    sizes = [(37, 50), (32, 44)]
    images = np.zeros((2, 48, 64, 3), np.float32)
    for image, size in zip(images, sizes, strict=True):
        image[: size[0], : size[1]] = np.random.default_rng(0).normal(size=(*size, 3))
    slide = functools.partial(
        sliding_scores, predict, crop=(16, 16), stride=(8, 8), window_batch=window_batch
    )
    scores = jax.jit(slide)(jnp.asarray(images), jnp.asarray(sizes))
    for found, image, (height, width) in zip(scores, images, sizes, strict=True):
        wanted = sliding_reference(predict, image[:height, :width], 16, 8)
        np.testing.assert_allclose(found[:height, :width], wanted, atol=1e-5)


def test_scores_return_to_the_original_size_like_a_static_resize():
    scores = np.random.default_rng(1).normal(size=(2, 24, 40, 3)).astype(np.float32)
    sizes, originals = [(20, 37), (24, 31)], [(33, 50), (16, 64)]
    resize_padded = jax.jit(resize_traced, static_argnums=3)
    found = resize_padded(scores, jnp.asarray(sizes), jnp.asarray(originals), (40, 64))
    for index, ((h, w), (height, width)) in enumerate(zip(sizes, originals, strict=True)):
        wanted = resize(jnp.asarray(scores[index, :h, :w]), (height, width))
        np.testing.assert_allclose(found[index, :height, :width], wanted, atol=1e-5)
        assert not np.any(found[index, height:]) and not np.any(found[index, :, width:])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("short_side", [0, 40])
def test_labels_of_pictures_that_share_a_canvas(short_side, flip):
    """Sizes as data give what each picture alone gives, computed step by step."""
    protocol = Protocol(short_side=short_side, crop=32, stride=16, flip=flip)
    model, vocabulary = color_model(context=0.3), color_vocabulary()
    predict = predict_by_color(model, vocabulary)
    pictures = [scene(50, 66, seed=1)[0], scene(49, 70, seed=2)[0]]
    canvases = [lay_on_canvas(picture, protocol) for picture in pictures]
    assert len({canvas.pixels.shape for canvas in canvases}) == 1
    labels, scores = segment_canvases(model, vocabulary, canvases, protocol, with_scores=True)
    for index, canvas in enumerate(canvases):
        height, width = canvas.original_size
        resized = canvas.pixels[: canvas.size[0], : canvas.size[1]]
        resized = (resized.astype(np.float32) - model.mean) / model.std
        maps = []
        for step in (1, -1) if flip else (1,):
            slid = sliding_reference(predict, resized[:, ::step], 32, 16)
            back = resize(jnp.asarray(slid[..., :4]), (height, width))[:, ::step]
            maps.append(jax.nn.softmax(back, axis=-1) if flip else back)
        wanted = np.mean(maps, axis=0)
        np.testing.assert_allclose(scores[index, :height, :width, :4], wanted, atol=1e-4)
        agreement = (labels[index, :height, :width] == wanted.argmax(-1)).mean()
        assert agreement > 0.999


def test_whole_mode_and_pictures_smaller_than_the_window():
    image, label = scene(40, 30)
    model, vocabulary = color_model(), color_vocabulary()
    for protocol in (Protocol(), Protocol(crop=64, stride=32), Protocol(short_side=60)):
        canvas = lay_on_canvas(image, protocol)
        labels, _ = segment_canvases(model, vocabulary, [canvas], protocol)
        assert (np.asarray(labels[0])[:40, :30] == label).mean() > 0.95


def test_padding_rows_are_never_predicted_and_synonyms_share_a_class():
    image, label = scene(32, 32)
    vocabulary = color_vocabulary(rows=16)
    # Padding is black, which is what a black picture is nearest to.
    canvas = lay_on_canvas(np.zeros_like(image), Protocol())
    labels, scores = segment_canvases(color_model(), vocabulary, [canvas], Protocol(), True)
    assert labels.min() >= 0 and np.all(np.isneginf(np.asarray(scores)[..., 4:]))
    both = color_vocabulary(rows=16)
    both = type(both)(both.embeddings, jnp.where(both.class_ids == 2, 0, both.class_ids), both.seen)
    labels, _ = segment_canvases(
        color_model(), both, [lay_on_canvas(image, Protocol())], Protocol()
    )
    assert np.array_equal(np.asarray(labels)[0], np.where(label == 2, 0, label))


def test_new_sizes_and_new_words_compile_nothing():
    protocol = Protocol(short_side=40, crop=32, stride=16)
    model, vocabulary = color_model(), color_vocabulary()
    segment_canvases(model, vocabulary, [lay_on_canvas(scene(50, 66)[0], protocol)], protocol)
    compiled = compiled_segment._cache_size()
    for size in ((50, 67), (61, 80), (44, 58), (97, 128)):
        canvas = lay_on_canvas(scene(*size)[0], protocol)
        segment_canvases(model, vocabulary, [canvas], protocol)
    segment_canvases(model, color_vocabulary(("white", "blue")), [canvas], protocol)
    assert compiled_segment._cache_size() == compiled


def test_antialiased_canvases_are_those_of_detectron2():
    image = np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8)
    canvas = lay_on_canvas(image, Protocol(short_side=40, long_side=50, antialias=True))
    step = ResizeShortestEdge((40,), 50)
    expected = step.apply({"image": image}, 40)["image"]
    assert canvas.size == expected.shape[:2] == (34, 50)
    np.testing.assert_array_equal(canvas.pixels[:34, :50], expected)
    assert canvas.pixels.shape == (64, 64, 3) and not canvas.pixels[34:].any()


def test_resized_sizes_follow_mmcv():
    assert resized_size((375, 500), 512) == (512, 683)
    assert resized_size((500, 333), 512) == (769, 512)
    assert resized_size((96, 128), 0) == (96, 128)
    assert resized_size((96, 128), 0, 64) == (96, 128)
    assert resized_size((1024, 2048), 560, 2048) == (560, 1120)
    assert resized_size((300, 3000), 336, 2048) == (205, 2048)


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(ValueError, match="gaps"):
        Protocol(crop=32, stride=40)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(pad_patches=True), "pictures that are taken whole"),
        (dict(pad_patches=True, patch=4, crop=8, stride=8), "pictures that are taken whole"),
        (dict(pamr_steps=2, pamr_dilations=()), "are no distances"),
        (dict(pamr_steps=2, pamr_dilations=(4, 0)), "are no distances"),
    ],
)
def test_protocols_that_make_no_sense(fields, message):
    with pytest.raises(UserError, match=message):
        Protocol(**fields)


def test_a_protocol_from_a_config_has_defaults_and_can_be_hashed():
    section = dict(batch_size=3, short_side=40, crop=32, stride=16, pamr_dilations=[2, 4])
    protocol = Protocol.from_config(section)
    assert protocol == Protocol(40, 32, 16, pamr_dilations=(2, 4))
    assert hash(protocol) and not protocol.needs_softmax()


def background_reference(scores, class_ids, area, threshold):
    """The rules as published, on classes: [H, W, N] of one picture -> labels."""
    rows = softmax(scores, axis=-1)
    classes = np.stack([rows[..., class_ids == i].max(-1) for i in range(class_ids.max() + 1)], -1)
    if area:
        counts = np.bincount(classes.argmax(-1).ravel(), minlength=classes.shape[-1])
        small = counts <= area * counts[1:].sum()
        classes = classes * np.where(np.arange(len(small)) > 0, ~small, True)
    return np.where(classes.max(-1) < threshold, 0, classes.argmax(-1)), classes


@pytest.mark.parametrize("short_side", [0, 40])
@pytest.mark.parametrize(
    ("area", "threshold", "pamr_steps"), [(0.2, 0.0, 0), (0.0, 0.64, 0), (0.2, 0.63, 2)]
)
def test_background_rules_of_pictures_that_share_a_canvas(short_side, area, threshold, pamr_steps):
    protocol = Protocol(
        short_side,
        crop=32,
        stride=16,
        area=area,
        threshold=threshold,
        pamr_steps=pamr_steps,
        pamr_dilations=(1, 3),
    )
    plain = Protocol(short_side, crop=32, stride=16)
    names = color_vocabulary()
    # 'blue' is a second word for 'green'; the padding rows come last.
    ids = jnp.array([0, 1, 1, 2, -1, -1, -1, -1])
    names = dataclasses.replace(names, class_ids=ids)
    model = color_model(context=0.3)
    canvases = [lay_on_canvas(scene(*size, seed=7)[0], protocol) for size in ((44, 60), (41, 58))]
    labels, found = segment_canvases(model, names, canvases, protocol, with_scores=True)
    _, scores = segment_canvases(model, names, canvases, plain, with_scores=True)
    for i, canvas in enumerate(canvases):
        height, width = canvas.original_size
        mine = scores[i : i + 1, :height, :width, :4]
        if pamr_steps:
            picture = canvas.pixels[: canvas.size[0], : canvas.size[1]]
            picture = jnp.asarray((picture - model.mean) / model.std)
            guide = resize(picture, (height, width))[None]
            mine = jax.jit(functools.partial(pamr, steps=pamr_steps, dilations=(1, 3)))(guide, mine)
        wanted, classes = background_reference(
            np.asarray(mine[0], np.float64), np.asarray(ids[:4]), area, threshold
        )
        assert (labels[i, :height, :width] == wanted).mean() > 0.999
        assert (wanted != np.asarray(ids)[np.asarray(mine[0]).argmax(-1)]).mean() > 0.01
        rows = np.asarray(found[i, :height, :width])
        best = np.stack([rows[..., np.asarray(ids) == c].max(-1) for c in range(3)], axis=-1)
        np.testing.assert_allclose(best, classes, atol=1e-4)


def test_float_pictures_are_taken_as_normalised():
    image, label = scene(20, 20)
    model, vocabulary = color_model(), color_vocabulary()
    normalized = (image.astype(np.float32) - model.mean) / model.std
    canvas = lay_on_canvas(normalized, Protocol())
    labels, _ = segment_canvases(model, vocabulary, [canvas], Protocol())
    assert np.array_equal(np.asarray(labels)[0, :20, :20], label)


def toy_network(weights, bias, crop):
    """The network of the recorded case: see its `meta`."""

    def pool(size):  # average pooling 4 x 4 whose border windows divide by their true size
        cells = -(-size // 4)
        matrix = (np.arange(size)[None] // 4 == np.arange(cells)[:, None]).astype(np.float32)
        return interpolation_matrix(cells, size) @ (matrix / matrix.sum(1, keepdims=True))

    down, across = pool(crop[0]), pool(crop[1])

    def predict(image):  # [B, h, w, 3]
        image = jnp.tanh(image - image.mean((1, 2), keepdims=True))
        rows = jnp.einsum("yh,bhwc->bywc", down, image @ weights.T + bias)
        return jnp.einsum("xw,bywn->byxn", across, rows)

    return predict


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the full golden set is not beside the clone")
def test_recorded_sliding_windows_of_mmsegmentation():
    recorded = np.load(GOLDEN)
    meta = json.loads(str(recorded["meta"]))
    image = jnp.asarray(recorded["in/image"].transpose(0, 2, 3, 1))
    sizes = jnp.asarray([image.shape[1:3]])
    original = meta["ori_shape"]
    for name, (crop, stride) in meta["slides"].items():
        # mmsegmentation's window is the picture where the picture is smaller.
        crop = tuple(min(c, n) for c, n in zip(crop, image.shape[1:3], strict=True))
        predict = toy_network(recorded["in/W"], recorded["in/b"], crop)
        slide = functools.partial(sliding_scores, predict, crop=crop, stride=tuple(stride))
        scores = jax.jit(slide)(image)
        wanted = recorded[f"out/slide_{name}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(scores, wanted, atol=2e-5)
        back = jax.jit(resize_traced, static_argnums=3)(
            scores, sizes, jnp.asarray([original]), tuple(original)
        )
        wanted = recorded[f"out/slide_{name}_softmax_ori"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(jax.nn.softmax(back, -1), wanted, atol=1e-5)


@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize(
    "protocol",
    [Protocol(short_side=32, crop=32, stride=16), Protocol(pamr_steps=1, pamr_dilations=(1,))],
)
def test_names_in_chunks_give_the_same_labels(monkeypatch, protocol, threshold):
    """More names than fit in memory are compared in parts; pictures are encoded once."""
    rng = np.random.default_rng(4)
    rows = 53
    names = Vocabulary(
        jnp.asarray(rng.integers(0, 4, (rows, 3)) * 85.0, jnp.float32),  # some of them twice
        jnp.asarray(np.where(np.arange(rows) % 9 == 8, -1, np.arange(rows)), jnp.int32),
        jnp.ones(rows, bool),
    )
    canvases = [lay_on_canvas(scene(40, 60, seed=seed)[0], protocol) for seed in (1, 2)]
    model = color_model()
    _, scores = segment_canvases(model, names, canvases, protocol, with_scores=True)
    if threshold:
        likely = softmax(scores[:, :40, :60], axis=-1).max(-1)
        protocol = dataclasses.replace(protocol, threshold=float(np.median(likely)))
    found = []
    for at_once in (2**28, 9 * 2 * 32 * 64, 1):
        monkeypatch.setattr(inference, "_SCORES_AT_ONCE", at_once)
        compiled_segment.clear_cache()
        found.append(segment_canvases(model, names, canvases, protocol)[0][:, :40, :60])
    assert len(np.unique(found[0])) > 2
    for labels in found[1:]:
        assert np.mean(labels == found[0]) > 0.999  # the last bit may decide
    compiled_segment.clear_cache()


def test_model_is_a_pytree_with_a_static_graph():
    model = color_model()
    doubled = jax.tree.map(lambda leaf: leaf * 2, model)
    assert isinstance(doubled, Model) and doubled.graphdef == model.graphdef
    assert float(doubled.params["gain"]) == 2.0
