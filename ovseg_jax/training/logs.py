"""What a run says while it works: JSON lines always, TensorBoard where clu is installed."""

import importlib.util
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from ovseg_jax.files import atomic_write, saving

_BETWEEN_LINES = 30.0  # seconds, of a bar that is written to a file


class MetricLog:
    """Appends ``{"step": …, name: value, …}`` lines to ``metrics.jsonl`` of a run folder.

    Only the first process writes. Where clu and TensorFlow are installed and ``tensorboard`` is
    set, the scalars also go to event files in the folder. Use as a context manager.
    """

    def __init__(self, workdir: str | Path, first: int = 0, tensorboard: bool = False):
        """Opens the files.

        Args:
            workdir: the run folder.
            first: the step that the run goes on from; lines of later steps are dropped, because
                the run that wrote them was stopped after its last checkpoint.
            tensorboard: whether to write event files too.
        """
        self._path = Path(workdir) / "metrics.jsonl"
        self._file = None
        self._clu = None
        if jax.process_index() != 0:
            return
        if self._path.is_file():
            atomic_write(self._path, _lines_until(self._path.read_bytes(), first))
        with saving(self._path):
            self._file = open(self._path, "a", buffering=1)  # noqa: SIM115
        if tensorboard and all(map(importlib.util.find_spec, ("clu", "tensorflow"))):
            from clu import metric_writers

            self._clu = metric_writers.SummaryWriter(str(workdir))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line; values are converted to Python floats here, so devices may run ahead.

        Raises:
            UserError: the disk is full.
        """
        values = {name: float(value) for name, value in scalars.items()}
        if self._file:
            finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
            with saving(self._path):
                self._file.write(json.dumps({"step": step, **finite}) + "\n")
        if self._clu:
            self._clu.write_scalars(step, values)

    def close(self) -> None:
        """Flushes and closes all files."""
        if self._file:
            with saving(self._path):
                self._file.close()
        if self._clu:
            self._clu.close()


def _lines_until(content: bytes, step: int) -> bytes:
    """The complete lines of a metrics file up to a step."""

    def stays(line):
        # A kill can leave half a line at the end.
        return line.endswith(b"\n") and json.loads(line)["step"] <= step

    return b"".join(line for line in content.splitlines(keepends=True) if stays(line))


class Throughput:
    """Examples per second since the last reading."""

    def __init__(self):
        self._time = time.perf_counter()
        self._count = 0

    def add(self, examples: int) -> None:
        """Counts examples that were dispatched."""
        self._count += examples

    def read(self) -> float:
        """Returns the rate since the last call and starts anew."""
        now = time.perf_counter()
        rate = self._count / max(now - self._time, 1e-9)
        self._time, self._count = now, 0
        return rate


def progress_bar(total: int, initial: int = 0, label: str = "train", unit: str = "step"):
    """A progress bar on standard error, on the first process only."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit=unit,
        unit_scale=unit == "B",
        delay=1.0 if unit == "B" else 0.0,  # small files are through in an instant
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else _BETWEEN_LINES,
        maxinterval=_BETWEEN_LINES,
        file=sys.stderr,
        disable=jax.process_index() != 0,
    )


def say(text: str) -> None:
    """Prints a line for the person who watches, on the first process only."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
