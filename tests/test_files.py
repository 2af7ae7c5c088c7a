import errno
import os

import pytest

from ovseg_jax import files
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write, atomic_write_all, saving


def test_files_are_written_whole_with_folders(tmp_path):
    atomic_write(tmp_path / "a/b.txt", b"one")
    atomic_write(tmp_path / "a/b.txt", lambda file: file.write(b"two"))
    assert (tmp_path / "a/b.txt").read_bytes() == b"two"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_file_of_a_group_that_does_not_fit_leaves_none(tmp_path):
    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "one").write_bytes(b"old")
    with pytest.raises(UserError, match=r"two: the disk is full; free some space"):
        atomic_write_all({tmp_path / "one": b"new", tmp_path / "two": full})
    assert os.listdir(tmp_path) == ["one"]
    assert (tmp_path / "one").read_bytes() == b"old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_really_full_disk(tmp_path, monkeypatch):
    original = open
    monkeypatch.setattr(
        files, "open", lambda path, mode: original("/dev/full", mode), raising=False
    )
    with pytest.raises(UserError, match="disk is full"):
        atomic_write(tmp_path / "a", b"content")
    assert not os.listdir(tmp_path)


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(UserError, match="in the way"):
        atomic_write(tmp_path / "a/b", b"")


def test_a_folder_in_the_way_of_the_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="in the way"):
        atomic_write(tmp_path / "a", b"")
    assert os.listdir(tmp_path) == ["a"]


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(OSError, match="unplugged"), saving(tmp_path):
        raise OSError(errno.EIO, "unplugged")

    def fails(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomic_write(tmp_path / "a", fails)
    assert not os.listdir(tmp_path)
