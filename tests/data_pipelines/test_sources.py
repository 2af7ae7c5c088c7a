import pytest

from data_pipelines import sources
from data_pipelines.sources import create_source
from ovseg_jax.errors import UserError


def test_creates_a_source_from_its_config():
    source = create_source({"name": "shapes", "seed": 1, "size": 5, "canvas": 48})
    assert len(source) == 5
    assert source[4]["image"].shape == (48, 48, 3)


def test_unknown_names_and_arguments_get_a_hint():
    with pytest.raises(UserError, match="did you mean 'shapes'"):
        create_source({"name": "shape"})
    with pytest.raises(UserError, match=r"known are shapes, .*folder"):
        create_source({"name": "zzz"})
    with pytest.raises(UserError, match="no 'canvass'; did you mean 'canvas'"):
        create_source({"name": "shapes", "canvass": 96})


class NeedySource:
    def __init__(self, folder, size=1):
        self.folder, self.size = folder, size


def test_missing_arguments_are_named(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "needy", f"{__name__}:NeedySource")
    with pytest.raises(UserError, match="'needy' needs 'folder'"):
        create_source({"name": "needy"})
