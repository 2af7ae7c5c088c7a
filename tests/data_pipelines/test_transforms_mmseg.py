"""The steps of mmsegmentation equal ZegCLIP's recorded chain, draw for draw and pixel for pixel."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.transforms import common, mmseg, pixels
from data_pipelines.transforms.resize import short_side_size
from ovseg_jax.parity.zegclip_data import RecordedDraws, compare_augment

GOLDEN = Path(__file__).parents[1] / "golden" / "zegclip" / "augment.npz"


def test_equal_recorded():
    with np.load(GOLDEN) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
        meta = json.loads(str(file["meta"]))
    compared = compare_augment(arrays, meta)
    assert set(compared) == {key for key in arrays if "out" in key.split("/")}
    for key, quantity in compared.items():
        assert quantity.actual.dtype.kind == arrays[key].dtype.kind, key
        # Tighter than the parity command: OpenCV's code paths are pinned in `hsv_to_rgb`.
        tolerance = 1e-6 if "normalize" in key else 0
        np.testing.assert_allclose(quantity.actual, arrays[key], rtol=0, atol=tolerance)


def test_replay_notices_another_draw():
    with pytest.raises(ValueError, match="rand"):
        common.Flip()({}, RecordedDraws([["uniform", [0, 1], 0.3]]))


def test_crop_avoids_a_single_class():
    label = np.zeros((8, 64), np.uint8)
    label[:, 60:] = 1
    given = {"image": np.zeros((8, 64, 3), np.uint8), "label": label}
    crop = mmseg.RandomCrop((8, 8))
    found = sum(crop(given, np.random.default_rng(s))["label"].any() for s in range(100))
    free = mmseg.RandomCrop((8, 8), cat_max_ratio=1)
    unchecked = sum(free(given, np.random.default_rng(s))["label"].any() for s in range(100))
    assert found > 2 * unchecked


def test_short_side_is_exact_at_every_size():
    for long in range(64, 400, 7):
        assert short_side_size((64, long), 48)[0] == 48
        assert short_side_size((long, 64), 48)[1] == 48


@pytest.mark.parametrize("width", [1, 63, 64, 65, 130])
def test_hsv_conversion_covers_every_width(width):
    hsv = np.random.default_rng(0).integers(0, 180, (5, width, 3), dtype=np.uint8)
    rgb = pixels.hsv_to_rgb(hsv)
    h, s, v = (hsv[..., channel].astype(np.float64) for channel in range(3))
    chroma = v * s / 255
    sector = (np.array([5.0, 3.0, 1.0]) + h[..., None] / 30) % 6
    ramp = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    assert np.abs(rgb - (v[..., None] - chroma[..., None] * ramp)).max() < 1.001
