"""What the tests share: compiled programs, recorded arrays, a run small enough to train anew."""

import contextlib
import os
from pathlib import Path

import pytest
import tiny

# Before JAX is imported. Compiled programs serve all workers, subprocesses and the next time.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ovseg_jax" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


@pytest.fixture(scope="session", autouse=True)
def no_embeddings_from_before(tmp_path_factory):
    """Text embeddings are kept between processes; here each session begins without any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recorded arrays."""
    return Path(__file__).parent / "golden"


@contextlib.contextmanager
def _compiling_fast():
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def compiling_fast():
    """For tests of loops, whose time goes into compiling; values change in the last digits."""
    with _compiling_fast():
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The folder of a finished run of `tiny.config()`; tests that write into it copy it first."""
    from ovseg_jax.train import train

    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    with _compiling_fast():
        train(tiny.config(), workdir)
    return workdir
