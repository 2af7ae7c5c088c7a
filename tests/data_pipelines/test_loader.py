"""Batches are a function of (seed, step), whoever makes them."""

import itertools
import threading

import numpy as np
import pytest

from data_pipelines.loader import Loader
from ovseg_jax.errors import UserError


class Numbers:
    """Example i is an image full of i, 4 x (4 + i % spread) pixels."""

    def __init__(self, length=11, spread=1, broken=None, damaged=()):
        self.length, self.spread, self.broken, self.damaged = length, spread, broken, damaged
        self.read = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.broken:
            raise OSError("no such file")
        if index in self.damaged:
            raise UserError(f"file {index} is damaged")
        shape = (4, 4 + index % self.spread)
        return {
            "image": np.full((*shape, 3), index % 256, np.uint8),
            "label": np.full(shape, index % 256, np.uint8),
            "caption": f"number {index}",
            "number": index,
        }


def jitter(example, rng):
    return example | {"draw": rng.random()}


def take(iterator, count):
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_same(ours, expected):
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert set(one) == set(other)
        for key in one:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


def loader(source=None, batch_size=4, **options):
    source = Numbers() if source is None else source
    return Loader(source, (jitter,), batch_size, **{"seed": 1, "driver": "threads"} | options)


def numbers(batches):
    return np.concatenate([batch["number"] for batch in batches])


def test_batch_layout():
    (batch,) = take(loader().batches(), 1)
    assert set(batch) == {"image", "label", "number", "draw", "size", "valid"}
    assert batch["image"].dtype == np.uint8 and batch["image"].shape == (4, 4, 4, 3)
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["size"], np.full((4, 2), 4))
    assert batch["size"].dtype == np.int32 and batch["valid"].all()


def test_an_epoch_sees_each_example_once_and_orders_differ():
    batches = take(loader(batch_size=1).batches(), 33)
    epochs = numbers(batches).reshape(3, 11)
    for epoch in epochs:
        assert sorted(epoch) == list(range(11))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_example_randomness_differs_between_epochs_and_examples():
    batches = take(loader(batch_size=1).batches(), 22)
    assert len({float(batch["draw"][0]) for batch in batches}) == 22


def test_remainder_is_dropped_or_joined():
    dropped = numbers(take(loader().batches(), 4)).reshape(2, 8)
    assert all(len(set(epoch)) == 8 for epoch in dropped)
    joined = numbers(take(loader(drop_remainder=False).batches(), 11)).reshape(4, 11)
    assert all(sorted(epoch) == list(range(11)) for epoch in joined)
    assert loader().steps_per_epoch == 2
    assert loader(drop_remainder=False).steps_per_epoch == 3


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_resumes_at_any_step(drop_remainder):
    whole = take(loader(drop_remainder=drop_remainder).batches(), 8)
    for start in (1, 2, 5):
        resumed = take(loader(drop_remainder=drop_remainder).batches(start), 8 - start)
        assert_same(resumed, whole[start:])


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers):
    assert_same(take(loader(workers=workers).batches(), 6), take(loader(workers=2).batches(), 6))


def test_hosts_share_every_batch_and_read_only_their_share():
    whole = take(loader().batches(1), 3)
    sources = [Numbers(), Numbers()]
    shares = [
        take(loader(source, shard=(host, 2), prefetch=1).batches(1), 3)
        for host, source in enumerate(sources)
    ]
    joined = [
        {key: np.concatenate([first[key], second[key]]) for key in first}
        for first, second in zip(*shares, strict=True)
    ]
    assert_same(joined, whole)
    assert list(sources[0].read[:2]) != list(sources[1].read[:2])
    assert all(len(source.read) <= 2 * 5 for source in sources)  # 3 taken, 2 ahead, 2 examples each


def test_evaluation_pass_is_padded_with_invalid_examples():
    batches = list(loader().epoch())
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(numbers(batches)[valid], np.arange(11))
    assert len(valid) == 12
    shares = [list(loader(shard=(host, 4)).epoch()) for host in range(4)]
    assert [len(share) for share in shares] == [3] * 4
    assert_same([shares[3][-1]], [{key: value[-1:] for key, value in batches[-1].items()}])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 13, 101])
@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
def test_every_example_is_evaluated_once_whoever_reads_it(count, hosts):
    for read in (lambda one: list(one.epoch()), lambda one: list(one.examples())):
        shares = [
            read(loader(Numbers(count), 2 * hosts, shard=(host, hosts))) for host in range(hosts)
        ]
        assert len({len(share) for share in shares}) == 1  # or one host would wait for ever
        parts = itertools.chain(*shares)
        seen = [np.atleast_1d(part["number"])[np.atleast_1d(part["valid"])] for part in parts]
        seen = np.concatenate(seen)
        assert sorted(seen.tolist()) == list(range(count))


def test_examples_of_any_size_in_order():
    examples = list(loader(Numbers(spread=3)).examples())
    assert [example["index"] for example in examples] == list(range(11))
    assert examples[1]["image"].shape == (4, 5, 3) and examples[1]["caption"] == "number 1"
    shares = [list(loader(shard=(host, 2)).examples()) for host in range(2)]
    assert [len(share) for share in shares] == [6, 6]
    assert [example["index"] for example in shares[1]] == [1, 3, 5, 7, 9, 10]
    assert [example["valid"] for example in shares[1]] == [True] * 5 + [False]


def test_errors_name_the_example():
    with pytest.raises(RuntimeError, match="example 5: no such file"):
        list(loader(Numbers(broken=5)).epoch())
    with pytest.raises(UserError, match="different shapes"):
        list(loader(Numbers(spread=2)).epoch())


def test_damaged_files_end_the_run_unless_told_otherwise():
    with pytest.raises(UserError, match="file 3 is damaged"):
        list(loader(Numbers(damaged=(3,))).epoch())
    with pytest.raises(UserError, match="unreadable is 'ignore'"):
        loader(unreadable="ignore")


def test_skipped_files_are_replaced_in_training():
    whole = take(loader(batch_size=1).batches(), 22)
    ours = loader(Numbers(damaged=(3, 4, 10)), batch_size=1, unreadable="skip")
    batches = take(ours.batches(), 22)
    stand_ins = {3: 5, 4: 5, 10: 0}
    wanted = [stand_ins.get(number, number) for number in numbers(whole)]
    assert numbers(batches).tolist() == wanted and all(batch["valid"].all() for batch in batches)
    assert ours.skipped == {index: f"file {index} is damaged" for index in stand_ins}
    resumed = loader(Numbers(damaged=(3, 4, 10)), batch_size=1, unreadable="skip").batches(5)
    assert_same(take(resumed, 17), batches[5:])
    pairs = zip(batches, whole, strict=True)
    untouched = [pair for pair in pairs if pair[1]["number"][0] not in stand_ins]
    assert_same(*zip(*untouched, strict=True))


def test_skipped_files_count_nowhere_in_evaluation():
    for read in (lambda one: list(one.epoch()), lambda one: list(one.examples())):
        ours = loader(Numbers(damaged=(0, 10)), unreadable="skip")
        parts = read(ours)
        seen = [np.atleast_1d(part["number"])[np.atleast_1d(part["valid"])] for part in parts]
        assert np.concatenate(seen).tolist() == list(range(1, 10))
        assert sorted(ours.skipped) == [0, 10]


@pytest.mark.parametrize("hosts", [2, 3])
def test_each_skipped_file_is_counted_by_one_host(hosts):
    damaged = (3, 4, 5, 10)  # neighbours, and the one that fills up
    for read in (lambda one: list(one.epoch()), lambda one: list(one.examples())):
        ours = [
            loader(Numbers(damaged=damaged), 6, shard=(host, hosts), unreadable="skip")
            for host in range(hosts)
        ]
        parts = [part for one in ours for part in read(one)]
        seen = [np.atleast_1d(part["number"])[np.atleast_1d(part["valid"])] for part in parts]
        assert sorted(np.concatenate(seen).tolist()) == [0, 1, 2, 6, 7, 8, 9]
        assert sorted(index for one in ours for index in one.skipped) == [*damaged]


def test_a_data_set_of_damaged_files_is_an_error():
    with pytest.raises(UserError, match="none of the 11 examples from number 0 on"):
        next(loader(Numbers(damaged=range(11)), unreadable="skip").epoch())


def test_leaving_early_stops_the_threads_and_reads_little_ahead():
    source = Numbers(length=1000)
    before = threading.active_count()
    take(loader(source, prefetch=2).batches(), 1)
    assert threading.active_count() == before
    assert len(source.read) <= 4 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": Numbers(0)}, "no examples"),
        ({"shard": (0, 3)}, "cannot be shared by 3 hosts"),
        ({"shard": (2, 2)}, "number 2"),
        ({"driver": "grain"}, "unknown driver 'grain'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        loader(**options)


def test_less_than_a_batch():
    with pytest.raises(UserError, match="less than one batch"):
        loader(batch_size=12).batches()
    (batch,) = take(loader(batch_size=12, drop_remainder=False).batches(), 1)
    assert len(batch["number"]) == 12


class TestTensorFlow:
    """tf.data gives what the threads give."""

    @pytest.fixture(autouse=True)
    def _tensorflow(self):
        pytest.importorskip("tensorflow")

    @pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
    def test_same_batches(self, shard):
        for start in (0, 3):
            ours = take(loader(shard=shard, driver="tfdata").batches(start), 5)
            assert_same(ours, take(loader(shard=shard).batches(start), 5))
        assert_same(
            list(loader(shard=shard, driver="tfdata").epoch()), list(loader(shard=shard).epoch())
        )

    def test_is_the_default(self):
        assert loader(driver="auto").driver == "tfdata"

    def test_errors_keep_their_type(self):
        with pytest.raises(RuntimeError, match="example 5: no such file"):
            list(loader(Numbers(broken=5), driver="tfdata").epoch())
        with pytest.raises(UserError, match="different shapes"):
            list(loader(Numbers(spread=2), driver="tfdata").epoch())
