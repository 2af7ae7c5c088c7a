"""What the benchmarks share: the machine, its matrix-product peak, clocks, memory, tables."""

import importlib.util
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ovseg_jax.text.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {
    "real": ROOT / "configs/zegclip/coco_stuff_inductive.py",
    "demo": ROOT / "configs/shapes/zegclip.py",
    "clip": ROOT / "configs/training_free/ade150.py",
    "zsseg": ROOT / "configs/zsseg/coco_stuff.py",
}
_PEAK_SIZES = {"cpu": (512, 1024, 1536, 2048, 3072), "other": (2048, 4096, 8192, 16384)}


# --- Machine ---------------------------------------------------------------------------------


def describe() -> str:
    """One line: devices, processor, versions."""
    device = jax.devices()[0]
    name = _processor() if device.platform == "cpu" else device.device_kind
    return (
        f"{jax.device_count()} x {device.platform} ({name}), "
        f"jax {jax.__version__}, python {platform.python_version()}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} cores, {models[0]}" if models else platform.processor()


def matmul_peak(dtype: str, budget: float = 8.0) -> tuple[float, int]:
    """The highest rate of a square matrix product that this machine shows, over several sizes.

    Args:
        dtype: 'float32' or 'bfloat16'; float32 with JAX's default precision, as in the networks.
        budget: seconds, roughly, that all sizes may take together.

    Returns:
        FLOP/s of one device and the size that reached it.
    """
    platform_name = jax.devices()[0].platform
    sizes = _PEAK_SIZES.get(platform_name, _PEAK_SIZES["other"])
    product = jax.jit(lambda a, b: a @ b)
    best = (0.0, 0)
    for size in sizes:
        key = jax.random.key(size)
        a, b = (jax.random.normal(k, (size, size), dtype) for k in jax.random.split(key))
        seconds = clock(lambda a=a, b=b: product(a, b), budget=budget / len(sizes))
        best = max(best, (2.0 * size**3 / min(seconds), size))
    return best


# --- Clocks and memory -------------------------------------------------------------------------


def clock(
    call: Callable, repeats: int | None = None, warmup: int = 1, budget: float = 1.0
) -> list[float]:
    """Seconds of every call after the warm-up, each waited for.

    Args:
        call: returns arrays.
        repeats: how often; None = as often as fits in `budget` seconds, 3 times at least.
        warmup: calls that are not counted; the first one compiles.
        budget: see `repeats`.
    """
    for _ in range(warmup):
        jax.block_until_ready(call())
    seconds: list[float] = []
    while len(seconds) < (repeats or 3) or (repeats is None and sum(seconds) < budget):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds


def host_memory() -> float:
    """Largest resident memory of this process so far, in GiB."""
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def device_memory() -> float | None:
    """Largest allocation of the first device so far, in GiB; None where it keeps no statistics."""
    statistics_of_device = jax.devices()[0].memory_stats() or {}
    peak = statistics_of_device.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**30


class CompilationCounter:
    """Counts the programs that XLA is asked for, also those found in the persistent cache."""

    def __init__(self):
        self._seen = self._reported = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_) -> None:
        self._seen += event == "/jax/core/compile/backend_compile_duration"

    def since_last(self) -> int:
        """Programs since the last call or, at first, since the beginning."""
        new, self._reported = self._seen - self._reported, self._seen
        return new


# --- What is measured ----------------------------------------------------------------------------


# All names of COCO-Stuff (the inductive recipe has 156 of them compete), the seen ones of the demo.
CLASSES = {"real": 171, "demo": 56}


def load_recipe(size: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The recipe of a size with random weights, changed by ``section.key=value`` strings."""
    path = RECIPES[size]
    spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The smaller backbone, and prompts that ask for no run of a first stage.
    config = module.get_config(*(["r50_single"] if size == "zsseg" else []))
    config.pretrained = ""
    if size == "demo":
        # The packaged model's tokenizer without its weights.
        config.vocabulary.tokenizer = "shapes"
    if size == "clip":
        # One template, as own words are asked for; refinement by the picture has no names in it.
        config.vocabulary.templates = "a photo of a {}"
        config.eval.pamr_steps = 0
    values = (text.partition("=") for text in overrides)
    config.update_from_flattened_dict({key: _parse(value, config, key) for key, _, value in values})
    return config


def _parse(text: str, config: ConfigDict, key: str):
    """A value in the type that the recipe has there."""
    node = config
    for part in key.split("."):
        node = node[part]
    return text == "True" if isinstance(node, bool) else type(node)(text)


def random_vocabulary(classes: int, width: int) -> Vocabulary:
    """Unit-length random embeddings: speed does not depend on what the words mean."""
    rows = np.random.default_rng(0).normal(size=(classes, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    ids = jnp.arange(classes, dtype=jnp.int32)
    return Vocabulary(jnp.asarray(rows), ids, jnp.ones(classes, bool))


def random_batch(batch: int, image: int, classes: int) -> dict[str, np.ndarray]:
    """Noise as pictures, and labels in patches of 16 pixels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, (batch, -(-image // 16), -(-image // 16)), np.int32)
    labels = labels.repeat(16, axis=1).repeat(16, axis=2)[:, :image, :image]
    pixels = rng.standard_normal((batch, image, image, 3), np.float32)
    return {"image": pixels, "label": labels}


# --- Tables --------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table with aligned columns."""
    cells = [[_cell(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cell(value) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """Minimum and median."""
    return min(seconds), statistics.median(seconds)
