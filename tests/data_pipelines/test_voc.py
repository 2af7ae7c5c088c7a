"""Pascal VOC 2012: what becomes of the stored values, and real pictures in its folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sources.voc import VOCSource, label_table
from ovseg_jax.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_samples" / "voc_labelme"


@pytest.mark.parametrize(
    ("background", "classes"),
    [("ignored", [255, 0, 19, 255]), ("first", [0, 1, 20, 255]), ("last", [20, 0, 19, 255])],
)
def test_background(background, classes):
    label = np.uint8([[0, 1, 20, 255]])
    np.testing.assert_array_equal(label_table(background)(label, Path("x.png")), [classes])
    with pytest.raises(UserError, match=r"x\.png' has the value 21, but VOC's labels are 0\.\.20"):
        label_table(background)(label + np.uint8(1), Path("x.png"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real samples lie beside the repository only")
def test_real_samples(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (folder / name).mkdir(parents=True)
        for path in REAL.glob(f"*.{ending}"):
            shutil.copy(path, folder / name)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2011_000003\n2011_000006\n2011_000025\n")
    present = [sorted(np.unique(example["label"]).tolist()) for example in VOCSource(str(tmp_path))]
    assert present == [[4, 14, 255], [8, 14, 17, 255], [5, 6, 255]]
