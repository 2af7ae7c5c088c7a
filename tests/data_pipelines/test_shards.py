"""Tar shards and TFRecords: the index, what it refuses, and the order of the samples."""

import itertools
import os
import struct
import sys
import tarfile
import weakref

import cv2
import numpy as np
import pytest

from data_pipelines.datasets import DATASETS
from data_pipelines.doctor import examine
from data_pipelines.doctor.captions import examine_captions
from data_pipelines.loader import Loader
from data_pipelines.prepare.webdataset import pack
from data_pipelines.sources import webdataset
from data_pipelines.sources.shards import INDEX, expand_braces, find_shards
from data_pipelines.sources.tfrecords import TFRecordSource, scan_tfrecord
from data_pipelines.sources.webdataset import WebDatasetSource, scan_tar
from ovseg_jax.cli import main
from ovseg_jax.errors import UserError


def picture(value: int, ending: str = ".png") -> bytes:
    return cv2.imencode(ending, np.full((6, 8, 3), value, np.uint8))[1].tobytes()


def sample(key: str, value: int, caption: str | None = None) -> list[tuple[str, bytes]]:
    caption = f"number {value}" if caption is None else caption
    return [(f"{key}.png", picture(value)), (f"{key}.txt", caption.encode())]


def write_shards(folder, counts) -> None:
    """Shards whose samples are numbered through: of number n all pixels are n."""
    folder.mkdir(exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        members = []
        for _ in range(count):
            members += sample(f"{number:09d}", number)
            number += 1
        (folder / f"{shard:05d}.tar").write_bytes(pack(members))


@pytest.fixture
def scans(monkeypatch):
    """The names of the shards that are scanned."""
    names = []

    def scan(path):
        names.append(path.name)
        return scan_tar(path)

    monkeypatch.setattr(webdataset, "scan_tar", scan)
    return names


def values(source) -> list[int]:
    return [int(example["image"][0, 0, 0]) for example in source]


def test_samples_of_all_shards_in_order(tmp_path):
    write_shards(tmp_path, (3, 0, 2))
    source = WebDatasetSource(str(tmp_path))
    assert len(source) == 5 and source.incomplete == 0
    assert values(source) == [0, 1, 2, 3, 4]
    example = source[3]
    assert example["image"].shape == (6, 8, 3)
    assert (example["caption"], example["name"]) == ("number 3", "000000003")
    assert example["path"] == str(tmp_path / "00002.tar" / "000000003.png")
    with pytest.raises(IndexError):
        source[5]


def test_what_counts_as_picture_and_caption(tmp_path):
    long = "folder/" + "x" * 200
    members = [
        ("a.JPEG", picture(10, ".jpg")),
        ("a.json", b'{"caption": "of json"}'),
        ("b.webp", picture(20, ".webp")),
        ("b.json", b'{"caption": "of json"}'),
        ("b.txt", b" of text \n"),
        ("failed.json", b'{"caption": "without picture"}'),
        ("mute.jpg", picture(30, ".jpg")),
        ("c.caption.txt", b"another ending"),
        ("c.jpg", picture(30, ".jpg")),
        (f"{long}.jpg", picture(40, ".jpg")),
        (f"{long}.txt", "häßlich".encode()),
        ("null.png", picture(50)),
        ("null.json", b'{"caption": null}'),
    ]
    (tmp_path / "0.tar").write_bytes(pack(members))
    source = WebDatasetSource(str(tmp_path))
    assert source.incomplete == 3
    names = {example["name"]: example["caption"] for example in source}
    assert names == {"a": "of json", "b": "of text", long: "häßlich", "null": ""}
    np.testing.assert_allclose([e["image"].mean() for e in source], [10, 20, 40, 50], atol=2)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_tar_header(tmp_path, kind):
    key = "f" * 60 + "/" + "n" * 80
    for name, content in sample(key, 7):
        (tmp_path / name.replace("/", "_")).write_bytes(content)
    with tarfile.open(tmp_path / "0.tar", "w", format=kind) as tar:
        tar.add(tmp_path, "folder", recursive=False)
        for name, _ in sample(key, 7):
            tar.add(tmp_path / name.replace("/", "_"), name)
    (example,) = WebDatasetSource(str(tmp_path))
    assert (example["name"], int(example["image"].max())) == (key, 7)


def test_the_index_is_made_once_and_changed_shards_are_scanned_again(tmp_path, scans):
    write_shards(tmp_path, (2, 2, 2))
    WebDatasetSource(str(tmp_path / "{00000..00001}.tar"))
    assert sorted(scans) == ["00000.tar", "00001.tar"]
    assert (tmp_path / INDEX).is_file()
    assert values(WebDatasetSource(str(tmp_path))) == [*range(6)]
    assert scans[2:] == ["00002.tar"]
    assert values(WebDatasetSource(str(tmp_path / "0*2.tar"))) == [4, 5]
    assert len(scans) == 3

    changed = tmp_path / "00001.tar"
    size = changed.stat().st_size
    changed.write_bytes(pack(sample("new", 99) + sample("newer", 98)))
    assert changed.stat().st_size == size  # the time of change alone tells it
    os.utime(changed, ns=(0, 12345))
    assert values(WebDatasetSource(str(tmp_path))) == [0, 1, 99, 98, 4, 5]
    assert scans[3:] == ["00001.tar"]

    (tmp_path / INDEX).write_bytes(b"no index")
    assert values(WebDatasetSource(str(tmp_path))) == [0, 1, 99, 98, 4, 5]
    assert len(scans) == 7


def test_an_index_of_a_folder_that_may_not_be_written_is_kept_elsewhere(
    tmp_path, scans, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shards = tmp_path / "shards"
    write_shards(shards, (2, 1))
    (shards / INDEX).mkdir()  # stands in the way, also of the superuser
    for _ in range(2):
        assert values(WebDatasetSource(str(shards))) == [0, 1, 2]
    assert len(scans) == 2
    assert len(list((tmp_path / "cache" / "ovseg_jax" / "shards").iterdir())) == 1


def test_the_index_that_is_true_counts_wherever_it_lies(tmp_path, scans, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shards = tmp_path / "shards"
    write_shards(shards, (2, 1))
    WebDatasetSource(str(shards))
    kept = tmp_path / "kept"
    (shards / INDEX).rename(kept)
    (shards / INDEX).mkdir()  # one of these shards changes while nothing may be written here
    (shards / "00001.tar").write_bytes(pack(sample("new", 99) + sample("newer", 98)))
    WebDatasetSource(str(shards / "00001.tar"))
    (shards / INDEX).rmdir()
    kept.rename(shards / INDEX)
    del scans[:]
    assert values(WebDatasetSource(str(shards))) == [0, 1, 99, 98]
    assert scans == []


@pytest.mark.parametrize("left", [0.97, 0.6, 0.3])
def test_a_truncated_shard_is_named(tmp_path, scans, left):
    write_shards(tmp_path, (2, 30, 2))
    whole = (tmp_path / "00001.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "00001.tar").write_bytes(whole[: int(len(whole) * left)])
    for _ in range(2):
        with pytest.raises(UserError, match=r"damaged shards: .*00001\.tar.*; fetch them again"):
            WebDatasetSource(str(tmp_path))
    assert scans.count("00001.tar") == 2 and scans.count("00000.tar") == 1
    (tmp_path / "00001.tar").unlink()
    assert len(WebDatasetSource(str(tmp_path))) == 4


def test_a_shard_cut_between_two_members_is_named(tmp_path):
    write_shards(tmp_path, (3,))
    offset = int(scan_tar(tmp_path / "00000.tar").offsets[2])
    whole = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole[:offset])
    with pytest.raises(UserError, match=rf"00000\.tar.*breaks off at byte {offset}"):
        WebDatasetSource(str(tmp_path))


def test_a_compressed_shard_is_named(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"0\.tar.*no uncompressed tar file"):
        WebDatasetSource(str(tmp_path))


def test_damaged_samples_are_named_with_a_remedy(tmp_path):
    members = [("a.jpg", b"no picture"), ("a.txt", b"a"), ("b.png", picture(1)), ("b.json", b"{}")]
    (tmp_path / "0.tar").write_bytes(pack(members + sample("c", 2)))
    source = WebDatasetSource(str(tmp_path))
    with pytest.raises(UserError, match=r"0\.tar/a\.jpg'; remove it with: tar --delete -f .* a\.j"):
        source[0]
    with pytest.raises(UserError, match=r"0\.tar/b\.json' has no text as its caption"):
        source[1]
    assert source[2]["caption"] == "number 2"


def test_a_shard_that_shrinks_while_it_is_read(tmp_path):
    write_shards(tmp_path, (3,))
    source = WebDatasetSource(str(tmp_path))
    os.truncate(tmp_path / "00000.tar", 3000)
    with pytest.raises(UserError, match=r"00000\.tar' ends within its sample 2"):
        source[2]


def test_patterns(tmp_path):
    assert expand_braces("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert expand_braces("{b,c}/{0..1}") == ["b/0", "b/1", "c/0", "c/1"]
    for name in ("one", "two"):
        write_shards(tmp_path / name, (1, 1))
    (tmp_path / "one" / "._00000.tar").write_bytes(b"of another system")
    assert len(find_shards(str(tmp_path), "*.tar")) == 4
    assert len(WebDatasetSource(f"{tmp_path}/{{one,two}}/*0.tar")) == 2
    assert (tmp_path / "one" / INDEX).is_file() and (tmp_path / "two" / INDEX).is_file()
    with pytest.raises(UserError, match=r"no shards at '.*00002\.tar'; check the path"):
        find_shards(f"{tmp_path}/one/{{00000..00002}}.tar", "*.tar")
    with pytest.raises(UserError, match=r"no \*\.tar in .*; give the folder"):
        find_shards(str(tmp_path / "one" / "*.tgz"), "*.tar")
    with pytest.raises(UserError, match=r"no \*\.tar in '.*/one/1\*\.tar'; give the folder"):
        find_shards(f"{tmp_path}/{{two,one/1*.tar}}", "*.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \*\.tar in '.*/empty'; give the folder"):
        find_shards(f"{tmp_path}/{{one,empty}}", "*.tar")
    assert len(find_shards(f"{tmp_path}/*o*", "*.tar")) == 4  # one and two
    assert len(find_shards(f"{tmp_path}/**", "*.tar")) == 4


def test_a_shard_that_leads_nowhere_is_named(tmp_path):
    write_shards(tmp_path, (1,))
    (tmp_path / "00001.tar").symlink_to(tmp_path / "gone.tar")
    with pytest.raises(UserError, match=r"cannot open the shard '.*00001\.tar' \(No such file"):
        WebDatasetSource(str(tmp_path))


def read_steps(folder, batch_size, steps, **options) -> np.ndarray:
    """Numbers of the samples in each batch of a fresh loader, [steps, this host's share]."""
    source = WebDatasetSource(str(folder))
    loader = Loader(source, (), batch_size, driver="threads", **options)
    batches = itertools.islice(loader.batches(start_step=steps.start), len(steps))
    return np.stack([batch["image"][:, 0, 0, 0] for batch in batches])


def test_a_resumed_run_reads_the_same_samples(tmp_path):
    write_shards(tmp_path, (5, 9, 7))
    whole = read_steps(tmp_path, 4, range(12))
    (tmp_path / INDEX).unlink()
    np.testing.assert_array_equal(read_steps(tmp_path, 4, range(7, 12)), whole[7:])
    assert len(set(whole[:5].ravel())) == len(set(whole[5:10].ravel())) == 20
    assert (whole[:5] != whole[5:10]).any()


def test_hosts_share_every_batch(tmp_path):
    write_shards(tmp_path, (5, 9, 7))
    parts = [read_steps(tmp_path, 6, range(5), shard=(host, 3)) for host in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), read_steps(tmp_path, 6, range(5)))


def test_the_doctor_finds_what_spoils_captions(tmp_path):
    members = sample("a", 1) + sample("b", 1, "") + sample("c", 2, "thumbnail")
    members += sample("d", 3, "thumbnail") + sample("a", 4) + [("e.png", b""), ("e.txt", b"e")]
    (tmp_path / "0.tar").write_bytes(pack([*members, ("f.txt", b"failed")]))
    (report,) = examine(DATASETS["cc12m"], str(tmp_path))
    assert "1 more samples lack picture or caption" in report.summary()
    text = "\n".join(report.findings)
    assert "has 6 pictures, published are 11156203" in text
    assert "lists a twice" in text
    assert "1 pictures with an empty caption (b)" in text
    assert "1 pictures more than once (a = b)" in text
    assert "repeats captions ('thumbnail' 2 times)" in text
    assert "0.tar/e.png'; remove it" in text
    assert len(report.findings) == 6


def test_the_doctor_of_shards_without_a_picture(tmp_path, capsys):
    (tmp_path / "0.tar").write_bytes(pack([("a.txt", b"failed"), ("b.txt", b"failed")]))
    arguments = ["doctor", "cc12m", "--data", str(tmp_path), "--output", str(tmp_path / "seen")]
    assert main(arguments) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "train: no pictures, 2 more samples lack picture or caption and are left out"
    )
    assert printed[1].startswith("pictures in") and not (tmp_path / "seen").exists()
    assert printed[2].startswith("- split train has 0 pictures, published are")


def test_the_doctor_of_damaged_pictures_only(tmp_path, capsys):
    (tmp_path / "0.tar").write_bytes(pack([("a.jpg", b"no picture"), ("a.txt", b"failed")]))
    assert main(["doctor", "cc12m", "--data", str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "train: none of 1 pictures can be read" and printed[1].startswith("- ")


@pytest.mark.parametrize("limit", [0, -3])
def test_the_doctor_reads_one_picture_at_least(tmp_path, limit):
    write_shards(tmp_path, (1,))
    with pytest.raises(UserError, match=f"a limit of {limit} examples reads none; give 1 or more"):
        examine(DATASETS["cc12m"], str(tmp_path), limit=limit)


class ManyCaptions:
    """Small pictures with captions; counts those that are made and not yet let go."""

    def __init__(self, count):
        self.count, self.held, self.most = count, weakref.WeakValueDictionary(), 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((2, 2, 3), index, np.int64)
        self.held[index] = image
        self.most = max(self.most, len(self.held))
        return {"image": image, "caption": f"of {index // 500}", "name": str(index)}


def test_the_doctor_names_few_of_many_equal_pictures(tmp_path):
    members = [member for key in "abcde" for member in sample(key, 1, key)]
    (tmp_path / "0.tar").write_bytes(pack(members))
    (report,) = examine(DATASETS["cc12m"], str(tmp_path))
    assert "1 pictures more than once (a = b = c = …)" in report.findings[-1]


def test_the_doctor_holds_few_pictures_and_names_frequent_captions():
    source = ManyCaptions(2000)
    report = examine_captions(DATASETS["cc12m"], source, "train")
    assert source.most < 500 and report.count == len(report.names) == 2000
    assert report.summary().startswith("train: 2000 pictures of 2x2 to 2x2 pixels, 1.0 captions")
    repeated = "('of 0' 500 times, 'of 1' 500 times, 'of 2' 500 times and 1 more)"
    assert len(report.findings) == 2 and repeated in report.findings[1]


def frame(data: bytes) -> bytes:
    """A record with wrong checksums, which the index does not look at."""
    return struct.pack("<QI", len(data), 0) + data + bytes(4)


def test_records_are_found_by_their_lengths(tmp_path):
    path = tmp_path / "0.tfrecord"
    path.write_bytes(b"".join(map(frame, (b"one", b"", b"three"))))
    spans = scan_tfrecord(path)
    content = path.read_bytes()
    found = [content[o : o + n] for o, n in zip(spans.offsets, spans.lengths, strict=True)]
    assert found == [b"one", b"", b"three"]
    for cut in (1, 5, 20):
        path.write_bytes(content[:-cut])
        with pytest.raises(ValueError, match=r"its record \d breaks off, or it is compressed"):
            scan_tfrecord(path)


def test_tfrecords(tmp_path):
    tf = pytest.importorskip("tensorflow")

    def example(value, *texts):
        texts = [text.encode() for text in texts]
        features = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture(value)])),
            "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=texts)),
            "number": tf.train.Feature(int64_list=tf.train.Int64List(value=[value])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features))

    for shard in range(2):
        with tf.io.TFRecordWriter(str(tmp_path / f"x.tfrecord-{shard:05d}-of-00002")) as writer:
            for k in range(3):
                writer.write(example(3 * shard + k, f"first {k}", "second").SerializeToString())
    source = TFRecordSource(str(tmp_path), caption="text")
    assert values(source) == [0, 1, 2, 3, 4, 5]
    assert source[4]["captions"] == ("first 1", "second")
    assert (source[4]["caption"], source[4]["name"]) == ("first 1", "x.tfrecord-00001-of-00002/1")
    with pytest.raises(UserError, match=r"/0' has no bytes as its feature 'caption', only image"):
        TFRecordSource(str(tmp_path))[0]
    (tmp_path / "x.tfrecord-00001-of-00002").write_bytes(frame(b"no example"))
    with pytest.raises(UserError, match=r"of-00002/0' is no tf\.train\.Example"):
        TFRecordSource(str(tmp_path))[3]


def test_tfrecords_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"read with TensorFlow; install it"):
        TFRecordSource(str(tmp_path))
