"""What a run says while it works: JSON lines always, TensorBoard where clu is installed."""

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax


class MetricLog:
    """Appends ``{"step": …, name: value, …}`` lines to ``metrics.jsonl`` of a run folder.

    Only the first process writes. Where clu and TensorFlow are installed and ``tensorboard`` is set,
    the scalars also go to event files in the folder.
    """

    def __init__(self, workdir: str | Path, tensorboard: bool = False):
        self._file = None
        self._clu = None
        if jax.process_index() == 0:
            self._file = open(Path(workdir) / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115
            if tensorboard and importlib.util.find_spec("clu") and importlib.util.find_spec("tensorflow"):
                from clu import metric_writers

                self._clu = metric_writers.SummaryWriter(str(workdir))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line; values are converted to Python floats here, so devices may run ahead."""
        values = {name: float(value) for name, value in scalars.items()}
        if self._file:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._clu:
            self._clu.write_scalars(step, values)

    def close(self) -> None:
        """Flushes and closes all files."""
        if self._file:
            self._file.close()
        if self._clu:
            self._clu.close()


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


def progress_bar(total: int, initial: int = 0, label: str = "train"):
    """A progress bar on standard error, on the first process only."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit="step",
        dynamic_ncols=True,
        file=sys.stderr,
        disable=jax.process_index() != 0,
    )


def say(text: str) -> None:
    """Prints a line for the person who watches, on the first process only."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
