"""Order, sharding, parallel loading, batching and prefetch of examples.

Everything is a function of `(seed, step)`: the order of an epoch comes from (seed, epoch), the
randomness of an example from (seed, epoch, index). So a run resumes at any step without stored
state, and the number of workers, the driver and the number of hosts change no example.
"""

import collections
import functools
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from data_pipelines.transforms import Example, Transform
from ovseg_jax.errors import UserError

DRIVERS = ("auto", "threads", "tfdata")
UNREADABLE = ("raise", "skip")
_ENDLESS = 2**40  # steps; a number that tf.data can count to
_PATIENCE = 100  # unreadable examples in a row after which it is not a matter of single files


class Source(Protocol):
    """A sequence of examples; items may be asked for by several threads at once."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example, before any transform."""


class Key(NamedTuple):
    """Which example; one that only fills up the last batch is not valid."""

    epoch: int
    index: int
    valid: bool
    replaceable: bool  # whether another may stand in where it cannot be read


class Reading(NamedTuple):
    """What a source gave."""

    example: Example
    index: int  # of the example, another than asked for where that could not be read


class Loader:
    """Batches of transformed examples.

    A batch is a dict of numpy arrays with a leading axis; strings stay behind. `valid` bool [B] is
    added, and `size` int32 [B, 2], the height and width of the source's image, unless a source
    gives its own. `label` becomes int32.
    """

    def __init__(
        self,
        source: Source,
        transforms: Sequence[Transform] = (),
        batch_size: int = 1,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_remainder: bool = True,
        shard: tuple[int, int] = (0, 1),
        workers: int = 0,
        prefetch: int = 2,
        driver: str = "auto",
        unreadable: str = "raise",
    ):
        """Sets up the loader; nothing is read yet.

        Args:
          source: the examples.
          transforms: callables (example, rng) -> example, in order.
          batch_size: examples per batch over all hosts.
          seed: of order and augmentation.
          shuffle: whether `batches` permutes each epoch.
          drop_remainder: whether the examples of an epoch that fill no whole batch are left out
            (another part each epoch, if shuffled), or fill a batch together with the next epoch's.
          shard: this host's number and the number of hosts; each makes its share of every batch.
          workers: threads that make examples; 0 = one for each core, 32 at most.
          prefetch: batches made ahead.
          driver: 'threads', 'tfdata', or 'auto': tf.data where TensorFlow is installed. Both give
            the same batches.
          unreadable: what becomes of an example that its source refuses to read, because a file is
            missing or damaged: 'raise', or 'skip', which lists it in `skipped`. In training the
            next one that can be read takes its place, in evaluation nothing does, and the hosts'
            lists have nothing in common.

        Raises:
          UserError: no examples, fewer than one batch, an indivisible batch or an unknown choice.
        """
        host, hosts = shard
        if len(source) == 0:
            raise UserError("the data source has no examples; check its paths and filters")
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} examples is no batch; use 1 or more")
        if batch_size % hosts or not 0 <= host < hosts:
            raise UserError(
                f"a batch of {batch_size} cannot be shared by {hosts} hosts (this one is number "
                f"{host}); make the batch size a multiple of the hosts"
            )
        if driver not in DRIVERS:
            raise UserError(f"unknown driver {driver!r}; use one of {', '.join(DRIVERS)}")
        if unreadable not in UNREADABLE:
            raise UserError(
                f"config.unreadable is {unreadable!r}; use one of {', '.join(UNREADABLE)}"
            )
        if driver == "auto":
            driver = "tfdata" if importlib.util.find_spec("tensorflow") else "threads"
        # OpenCV's own threads would fight with the workers for the same cores.
        cv2.setNumThreads(1)
        self.source = source
        self.transforms = tuple(transforms)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_remainder = drop_remainder
        self.shard = shard
        self.workers = workers or min(os.cpu_count() or 1, 32)
        self.prefetch = max(prefetch, 1)
        self.driver = driver
        self.unreadable = unreadable
        self.skipped: dict[int, str] = {}
        self._order = functools.lru_cache(maxsize=2)(self._permutation)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass: whole ones if the remainder is dropped."""
        whole, rest = divmod(len(self.source), self.batch_size)
        return whole if self.drop_remainder else whole + bool(rest)

    def batches(self, start_step: int = 0) -> Iterator[Example]:
        """Batches for ever, epoch after epoch, from the given step on.

        Raises:
          UserError: the source has less than one batch and the remainder is dropped, or its
            examples differ in size.
        """
        if self.drop_remainder and self.steps_per_epoch == 0:
            raise UserError(
                f"the data source has {len(self.source)} examples, less than one batch of "
                f"{self.batch_size}; lower the batch size or set drop_remainder=False"
            )
        return self._run(self._training_key, range(start_step, _ENDLESS))

    def epoch(self) -> Iterator[Example]:
        """One pass in the source's order; the last batch is filled up with `valid=False`.

        All hosts get the same number of batches.
        """
        return self._run(self._evaluation_key, range(-(-len(self.source) // self.batch_size)))

    def examples(self) -> Iterator[Example]:
        """One pass over single examples in the source's order, whatever their sizes.

        This host's share is every `hosts`-th example; where they do not divide evenly, the last
        one is repeated with `valid=False`, so that all hosts get the same number. Strings are
        kept; `index` is the example's number in the source. Threads make the examples, also where
        batches come from tf.data.
        """
        host, hosts = self.shard
        rounds = -(-len(self.source) // hosts)
        ahead = max(self.workers, self.prefetch * self._share)
        with _pool(self.workers) as pool:
            positions = (host + hosts * turn for turn in range(rounds))
            yield from in_order(pool, self._single, positions, ahead)

    def load(self, epoch: int, index: int) -> Example:
        """Makes one example: the source's, transformed with its own random stream.

        Raises:
          UserError: as the source and the steps raise.
          RuntimeError: any other failure, naming the example.
        """
        return self._load(Key(epoch, index, valid=True, replaceable=True)).example

    def _load(self, key: Key) -> Reading:
        where = f"example {key.index}"
        try:
            example, index = self._read(key)
            where = example.get("path", where)
            if "image" in example:
                example.setdefault("size", np.array(example["image"].shape[:2], np.int32))
            rng = self._rng(key.epoch * len(self.source) + index)
            for transform in self.transforms:
                example = transform(example, rng)
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(f"cannot load {where}: {error}") from error
        return Reading(example, index)

    def _read(self, key: Key) -> Reading:
        """The example, or the next readable one where unreadable ones are skipped."""
        if self.unreadable == "raise":
            return Reading(dict(self.source[key.index]), key.index)
        following = [(key.index + step) % len(self.source) for step in range(_PATIENCE)]
        errors = []
        for candidate in dict.fromkeys(following):
            try:
                return Reading(dict(self.source[candidate]), candidate)
            except UserError as error:
                errors.append(str(error))
                # In evaluation what comes after belongs to another key, maybe of another host.
                if key.replaceable or (key.valid and candidate == key.index):
                    self._skip(candidate, error)
        raise UserError(
            f"none of the {len(errors)} examples from number {key.index} on can be read; the "
            f"first: {errors[0]}"
        )

    def _skip(self, index: int, error: UserError) -> None:
        if index not in self.skipped:
            self.skipped[index] = str(error)
            print(f"skipping example {index}: {error}", file=sys.stderr, flush=True)

    @property
    def _share(self) -> int:
        """Examples of a batch that this host makes."""
        return self.batch_size // self.shard[1]

    def _single(self, position: int) -> Example:
        key = self._evaluation_key(position)
        return self._make(key) | {"index": key.index}

    def _make(self, key: Key) -> Example:
        """The example of a key, and whether it counts."""
        example, index = self._load(key)
        return example | {"valid": key.valid and (key.replaceable or index == key.index)}

    def _arrays(self, key: Key) -> Example:
        """One example as it enters a batch."""
        arrays = {name: np.asarray(value) for name, value in self._make(key).items()}
        arrays = {name: value for name, value in arrays.items() if value.dtype.kind in "biuf"}
        if "label" in arrays:
            arrays["label"] = arrays["label"].astype(np.int32)
        return arrays

    def _rng(self, example: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=_philox_key(self.seed, example)))

    def _permutation(self, epoch: int) -> np.ndarray:
        # The counter's last word sets this stream apart from those of the examples.
        bits = np.random.Philox(key=_philox_key(self.seed, epoch), counter=[0, 0, 0, 1])
        return np.random.Generator(bits).permutation(len(self.source))

    def _training_key(self, position: int) -> Key:
        """The example at a position of the endless stream of all hosts."""
        length = len(self.source)
        if self.drop_remainder:
            length = self.steps_per_epoch * self.batch_size
        epoch, place = divmod(position, length)
        index = int(self._order(epoch)[place]) if self.shuffle else place
        return Key(epoch, index, valid=True, replaceable=True)

    def _evaluation_key(self, position: int) -> Key:
        last = len(self.source) - 1
        return Key(0, min(position, last), valid=position <= last, replaceable=False)

    def _run(self, key_at: Callable[[int], Key], steps: range) -> Iterator[Example]:
        """Batches of the given steps; `key_at` tells the example at a position of the stream."""

        def make(slot: int) -> Example:
            """The example in a slot; slots number what this host makes."""
            step, row = divmod(slot, self._share)
            return self._arrays(key_at(step * self.batch_size + self.shard[0] * self._share + row))

        run = self._tfdata_batches if self.driver == "tfdata" else self._threaded_batches
        return run(make, steps)

    def _threaded_batches(self, make: Callable[[int], Example], steps: range) -> Iterator[Example]:
        # Batches are put together by a thread of its own, for copying would hold up the training
        # loop. The inner pool is left first, which cancels what the outer one waits for.
        with _pool(1) as assembler, _pool(self.workers) as pool:
            jobs = (
                [pool.submit(make, step * self._share + row) for row in range(self._share)]
                for step in steps
            )
            yield from in_order(assembler, _collect, jobs, self.prefetch + 1)

    def _tfdata_batches(self, make: Callable[[int], Example], steps: range) -> Iterator[Example]:
        """The same batches, with tf.data in charge of parallelism, batching and prefetch."""
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # it would take the memory that JAX needs
        first, last = steps.start * self._share, steps.stop * self._share
        template = make(first)
        failures: list[Exception] = []

        def arrays(slot: np.int64) -> list[np.ndarray]:
            try:
                example = make(int(slot))
                check_alike([template, example])  # tf.data would not name the offender
            except Exception as error:
                failures.append(error)
                raise
            return [example[name] for name in template]

        def load(slot):
            dtypes = [tf.as_dtype(array.dtype) for array in template.values()]
            values = tf.numpy_function(arrays, [slot], dtypes)
            for value, array in zip(values, template.values(), strict=True):
                value.set_shape(array.shape)
            return dict(zip(template, values, strict=True))

        dataset = (
            tf.data.Dataset.range(first, last)
            .map(load, num_parallel_calls=self.workers, deterministic=True)
            .batch(self._share)
            .prefetch(self.prefetch)
        )
        try:
            yield from dataset.as_numpy_iterator()
        except tf.errors.OpError:
            # What tf.data raises holds the cause as text only.
            if not failures:
                raise
            raise failures[0] from None


class _pool:
    """A thread pool that drops what it has not begun when it is left."""

    def __init__(self, workers: int):
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="loader")

    def __enter__(self) -> ThreadPoolExecutor:
        return self._executor

    def __exit__(self, *_) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def in_order(
    pool: ThreadPoolExecutor, function: Callable, jobs: Iterable, ahead: int
) -> Iterator[Any]:
    """Results of a pool in the order of the jobs, at most `ahead` of them begun or waiting."""
    jobs = iter(jobs)
    pending = collections.deque(pool.submit(function, job) for job in itertools.islice(jobs, ahead))
    while pending:
        result = pending.popleft().result()
        pending.extend(pool.submit(function, job) for job in itertools.islice(jobs, 1))
        yield result


def _collect(futures: Sequence[Future]) -> Example:
    return stack([future.result() for future in futures])


def check_alike(examples: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Checks that examples have the same keys and shapes.

    Raises:
      UserError: they differ.
    """
    for key in {key for example in examples for key in example}:
        if any(key not in example for example in examples):
            raise UserError(f"some examples of a batch have no {key!r}; let the source give all")
        shapes = sorted({example[key].shape for example in examples})
        if len(shapes) > 1:
            raise UserError(
                f"the examples of a batch have {key!r} of different shapes, {shapes[0]} and "
                f"{shapes[1]}; add steps that crop and pad, or read them one by one"
            )


def stack(examples: Sequence[Mapping[str, np.ndarray]]) -> Example:
    """Stacks the arrays of examples; raises UserError as `check_alike` does."""
    check_alike(examples)
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _philox_key(seed: int, stream: int) -> np.ndarray:
    return np.array([seed % 2**64, stream % 2**64], np.uint64)
