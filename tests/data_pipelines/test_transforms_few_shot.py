"""The steps of the few-shot recipes; resizing is compared with recorded pixels in parity."""

import numpy as np
import pytest

from data_pipelines.transforms import few_shot, pixels


def picture(height=60, width=80):
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : -height // 4, width // 4 : -width // 4] = (200, 120, 40)
    return {"image": image, "label": (image[..., 0] > 0).astype(np.uint8)}


def test_area_takes_means():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    small = few_shot.Resize((2, 2)).apply({"image": image}, None)["image"]
    blocks = image.reshape(2, 2, 2, 3, 3).mean((1, 3))
    assert np.abs(small - blocks).max() <= 0.5


@pytest.mark.parametrize("name", ["random_affine", "shift_scale_rotate"])
def test_warps_move_image_and_label_alike(name):
    step = {
        "random_affine": few_shot.RandomAffine(8.0),
        "shift_scale_rotate": few_shot.ShiftScaleRotate(),
    }[name]
    for seed in range(5):
        warped = step(picture(), np.random.default_rng(seed))
        differing = (warped["image"][..., 0] > 100) != (warped["label"] > 0)
        assert differing.mean() < 0.02
        assert (warped["label"] != picture()["label"]).any()


def test_warps_without_room_change_nothing():
    rng = np.random.default_rng(0)
    for step in (few_shot.RandomAffine(0.0), few_shot.ShiftScaleRotate(0.0, 0.0, 0.0)):
        np.testing.assert_array_equal(step(picture(), rng)["image"], picture()["image"])


def test_jitter_without_amount_changes_grey_pictures_not_at_all():
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    jittered = few_shot.ColorJitter(0.0)({"image": image}, np.random.default_rng(0))
    np.testing.assert_array_equal(jittered["image"], image)


def test_jitter_draws_every_order_and_stays_in_bounds():
    draws = [few_shot.ColorJitter(0.5).draw(np.random.default_rng(s), {}) for s in range(200)]
    assert len({tuple(name for name, _ in drawn) for drawn in draws}) == 24
    amounts = {name: [dict(drawn)[name] for drawn in draws] for name in dict(draws[0])}
    assert all(-0.5 <= turn <= 0.5 for turn in amounts.pop("hue"))
    assert all(0.5 <= factor <= 1.5 for values in amounts.values() for factor in values)


def test_contrast_and_saturation_keep_the_mean_and_the_grey():
    image = np.random.default_rng(0).integers(60, 190, (32, 32, 3), dtype=np.uint8)
    assert abs(pixels.scale_contrast(image, 0.5).mean() - image.mean()) < 3
    grey = pixels.blend_with_grey(image, 0.0)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()


def test_noise_has_the_variance_that_was_asked_for():
    image = np.full((64, 64, 3), 128, np.uint8)
    noisy = few_shot.GaussianNoise((25.0, 25.0))({"image": image}, np.random.default_rng(0))
    assert abs(noisy["image"].astype(float).std() - 5) < 0.3
