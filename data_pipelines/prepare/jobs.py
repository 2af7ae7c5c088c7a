"""Many files from many files: in parallel, resumable, never half-written."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.training.logs import progress_bar


class Job(NamedTuple):
    """One file to make."""

    source: Path
    target: Path


def run_jobs(
    jobs: Sequence[Job], make: Callable[[Path], bytes], label: str, workers: int | None = None
) -> int:
    """Makes the targets that are not there yet.

    Args:
      jobs: sources and targets.
      make: a function of a module: reads a source, returns the content of its target.
      label: of the progress bar.
      workers: threads; None = one for each core.

    Returns:
      How many files were made.

    Raises:
      UserError: a source that cannot be read. What was made before stays; the same call goes on.
    """
    open_jobs = [job for job in jobs if not job.target.is_file()]
    for folder in {job.target.parent for job in open_jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    bar = progress_bar(len(jobs), len(jobs) - len(open_jobs), label, "file")
    with bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in pool.map(partial(_run, make), open_jobs):
            bar.update()
    return len(open_jobs)


def _run(make: Callable[[Path], bytes], job: Job) -> None:
    try:
        content = make(job.source)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot convert {str(job.source)!r} ({error}); fetch it again") from error
    atomic_write(job.target, content)
