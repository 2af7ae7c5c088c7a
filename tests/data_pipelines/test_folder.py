"""A user's own folder: matching, decoding, and errors that name the file."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.folder import FolderSource
from data_pipelines.sources.labelled import decode_image, decode_label, read_label
from ovseg_jax.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_samples" / "voc_labelme"


@pytest.fixture
def folder(tmp_path):
    """Two pictures, 6 x 8, with palette labels beside them."""
    for number, name in enumerate(("b", "a")):
        image = np.zeros((6, 8, 3), np.uint8)
        image[..., 0] = 200  # red
        write_image(tmp_path / "images" / f"{name}.png", image)
        label = np.full((6, 8), number, np.uint8)
        label[0, 0] = 255
        write_palette(tmp_path / "labels" / f"{name}.png", label)
    return tmp_path


def write_image(path, image, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(image).save(path, **options)


def write_palette(path, label):
    path.parent.mkdir(exist_ok=True, parents=True)
    image = Image.fromarray(label)
    image.putpalette(list(range(255, -1, -1)) * 3)
    assert image.mode == "P"
    image.save(path)


def source(folder, **options):
    return FolderSource(str(folder / "images"), str(folder / "labels"), **options)


def test_reads_rgb_and_palette_indices_in_order(folder):
    data = source(folder, num_classes=2)
    assert len(data) == 2 and [data[index]["name"] for index in range(2)] == ["a", "b"]
    example = data[0]
    np.testing.assert_array_equal(example["image"][3, 3], [200, 0, 0])
    assert example["label"].dtype == np.uint8
    np.testing.assert_array_equal(np.unique(example["label"]), [1, 255])
    assert example["path"].endswith("a.png")


def test_without_labels_and_by_pattern(folder):
    assert "label" not in FolderSource(str(folder / "images"))[0]
    some = FolderSource(str(folder / "images" / "b*.png"), str(folder / "labels"))
    assert len(some) == 1 and some[0]["name"] == "b"


def test_images_and_labels_in_one_folder(tmp_path):
    write_image(tmp_path / "x.jpg", np.zeros((4, 4, 3), np.uint8))
    write_palette(tmp_path / "x.png", np.zeros((4, 4), np.uint8))
    data = FolderSource(str(tmp_path), str(tmp_path))
    assert len(data) == 1 and data[0]["path"].endswith("x.jpg")
    (tmp_path / "x.jpg").unlink()
    write_image(tmp_path / "x_image.png", np.zeros((4, 4, 3), np.uint8))
    data = FolderSource(str(tmp_path), str(tmp_path), suffixes=("_image.png",))
    assert len(data) == 1 and data[0]["name"] == "x"


def test_subfolders_are_kept(tmp_path):
    write_image(tmp_path / "images" / "city" / "x_left.png", np.zeros((4, 4, 3), np.uint8))
    write_palette(tmp_path / "labels" / "city" / "x_ids.png", np.zeros((4, 4), np.uint8))
    data = source(tmp_path, suffixes=("_left.png",), label_suffix="_ids.png")
    assert data[0]["name"] == "city/x"


def test_labels_of_16_bits(folder):
    label = np.full((6, 8), 800, np.uint16)
    label[0] = 65535
    cv2.imwrite(str(folder / "labels" / "a.png"), label)
    example = source(folder, num_classes=847, ignore_label=65535)[0]
    assert example["label"].dtype == np.int32
    np.testing.assert_array_equal(np.unique(example["label"]), [800, 65535])


def test_label_rules(folder):
    example = source(folder, reduce_zero_label=True, num_classes=1)[1]
    assert set(np.unique(example["label"])) == {255}
    example = source(folder, label_map={1: 300}, num_classes=301)[0]
    assert set(np.unique(example["label"])) == {255, 300}


def rotated(path, image):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to show
    write_image(path, image, exif=exif, quality=95)


def test_orientation_is_applied_unless_the_label_fits_the_stored_pixels(tmp_path):
    rotated(tmp_path / "images" / "x.jpg", np.zeros((16, 24, 3), np.uint8))
    assert FolderSource(str(tmp_path / "images"))[0]["image"].shape == (24, 16, 3)
    for shape in ((24, 16), (16, 24)):
        write_palette(tmp_path / "labels" / "x.png", np.zeros(shape, np.uint8))
        example = source(tmp_path)[0]
        assert example["image"].shape[:2] == example["label"].shape == shape


def test_missing_folders_and_files(folder):
    with pytest.raises(UserError, match=r"image folder .*nowhere.* does not exist"):
        FolderSource(str(folder / "nowhere"))
    with pytest.raises(UserError, match=r"label folder .*nowhere.* does not exist"):
        FolderSource(str(folder / "images"), str(folder / "nowhere"))
    with pytest.raises(UserError, match=r"has no images; looked for \.tif"):
        FolderSource(str(folder / "images"), suffixes=(".tif",))
    (folder / "labels" / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png' has no label; expected"):
        source(folder)


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_unreadable_files(folder, content):
    for kind in ("labels", "images"):
        (folder / kind / "a.png").write_bytes(content)
        with pytest.raises(UserError, match=rf"{kind}.*a\.png"):
            source(folder)[0]


def claiming(side: int) -> bytes:
    """A small PNG whose header claims a large square."""
    data = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def test_pictures_of_too_many_pixels(folder):
    with pytest.raises(UserError, match="cannot read the image 'large'"):
        decode_image(np.frombuffer(claiming(60_000), np.uint8), "large")
    with pytest.raises(UserError, match="cannot read the label 'large'"):
        decode_label(np.frombuffer(claiming(60_000), np.uint8), "large")


def test_labels_that_do_not_fit(folder):
    with pytest.raises(UserError, match=r"a\.png' has the value 1, but the vocabulary has 1 cl"):
        source(folder, num_classes=1)[0]
    write_palette(folder / "labels" / "a.png", np.zeros((5, 8), np.uint8))
    with pytest.raises(UserError, match="has 8x5 pixels and its image 8x6"):
        source(folder)[0]
    write_image(folder / "labels" / "a.png", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(UserError, match="is in colour"):
        read_label(folder / "labels" / "a.png")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real samples lie beside the repository only")
def test_real_samples():
    data = FolderSource(str(REAL), str(REAL), num_classes=21)
    present = [sorted(np.unique(data[index]["label"]).tolist()) for index in range(len(data))]
    assert present == [[0, 5, 15, 255], [0, 9, 15, 18, 255], [0, 6, 7]]
