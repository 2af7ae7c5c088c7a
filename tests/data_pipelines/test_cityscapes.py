import numpy as np
import pytest

from data_pipelines.datasets import prepare
from data_pipelines.prepare.images import encode
from data_pipelines.sources.cityscapes import CityscapesSource
from ovseg_jax.errors import UserError


@pytest.fixture
def label_path(tmp_path):
    """The label of the only example of the split 'val' below `tmp_path`."""
    prepare("cityscapes", tmp_path, None, 1)
    (path,) = (tmp_path / "gtFine" / "val" / "frankfurt").iterdir()
    return path


def test_label_ids_become_train_ids(tmp_path, label_path):
    stored = np.zeros((96, 72), np.uint8)
    stored[0, :34], stored[0, 34] = range(34), 255
    label_path.write_bytes(encode(stored, ".png"))
    source = CityscapesSource(str(tmp_path))
    assert source.pairs[0].name == "frankfurt_000001_000019"
    found = source[0]["label"][0, :35].tolist()
    # road 7, sidewalk 8, building 11 … train 31, motorcycle 32, bicycle 33
    counted = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert [found[value] for value in counted] == list(range(19))
    assert {found[value] for value in range(35) if value not in counted} == {255}


def test_mistakes(tmp_path, label_path):
    label_path.write_bytes(encode(np.full((96, 72), 34, np.uint8), ".png"))
    with pytest.raises(UserError, match=r"has the value 34, but Cityscapes' label ids are 0\.\.33"):
        CityscapesSource(str(tmp_path))[0]
    with pytest.raises(UserError, match=r"no gtFine in .*unpack leftImg8bit_trainvaltest\.zip"):
        CityscapesSource(str(label_path.parent))
    with pytest.raises(UserError, match="the split 'test' is unknown; use one of train, val"):
        CityscapesSource(str(tmp_path), "test")
    for path in (tmp_path / "leftImg8bit" / "val").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"no \*_leftImg8bit\.png in .*unpack leftImg8bit_"):
        CityscapesSource(str(tmp_path))
