"""Speed and memory of segmenting pictures with words.

  python benchmarks/infer.py --size demo
  python benchmarks/infer.py --size real --names 20 171
  python benchmarks/infer.py --size clip                    # a converted ViT-B/16, no training

For every number of names two fresh processes load a model folder (random weights) and segment the
same picture through `ovseg_jax.load(...).segment(...)`: the first with an empty compilation cache,
the second with the cache that the first one left. "First mask" counts from the start of the
process: Python, imports, reading the weights, embedding the names with all prompts, compiling.
Where PyTorch is installed, `--size clip` sets the figures in relation to `transformers`' CLIP.
"""

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs without being installed

GIGA = 1e9
PICTURES = {"real": (512, 683), "demo": (96, 96), "clip": (512, 683)}  # height, width
NAMES = {"real": (20, 171), "demo": (20, 100), "clip": (20, 847, 10_000)}


def run_child(options: argparse.Namespace) -> None:
    """Segments in this process and prints the figures as one line of JSON."""
    import jax
    import numpy as np

    import ovseg_jax
    from benchmarks import machine

    compiled = machine.CompilationCounter()
    shape = (options.height, options.width, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    segmenter = ovseg_jax.load(options.child)
    loaded = time.time()
    words = own_words(options.label_space, options.names[0])
    segmenter.segment(picture, words)
    first = time.time()
    counts = [compiled.since_last()]
    seconds = machine.clock(
        lambda: segmenter.segment(picture, words).labels, repeats=options.repeats, warmup=1
    )
    counts.append(compiled.since_last())
    start = time.perf_counter()
    segmenter.segment(picture, words[::-1])
    other_words = time.perf_counter() - start
    counts.append(compiled.since_last())
    segmenter.segment(picture[: shape[0] - 7, : shape[1] - 11], words)
    counts.append(compiled.since_last())
    figures = {
        "loaded": loaded - options.started,
        "first": first - options.started,
        "seconds": machine.spread(seconds),
        "other_words": other_words,
        "compiled": counts,
        "host": machine.host_memory(),
        "device": machine.device_memory(),
        "devices": jax.device_count(),
    }
    print(json.dumps(figures))


def own_words(label_space: str, count: int) -> list[str]:
    """Classes of a data set, and beyond them pairs of its names."""
    from ovseg_jax.text.label_space import load_label_space

    classes = load_label_space(label_space).classes
    words = [", ".join(names) for names in classes]
    firsts = [names[0] for names in classes]
    pairs = (f"{one} and {other}" for one in firsts for other in firsts if one != other)
    return [*words[:count], *itertools.islice(pairs, max(0, count - len(words)))]


def measure(options: argparse.Namespace, folder: Path, names: int, cache: Path) -> dict:
    """Figures of one fresh process."""
    command = [sys.executable, __file__, "--child", str(folder), "--names", str(names)]
    for key in ("height", "width", "repeats", "label_space"):
        command += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XDG_CACHE_HOME": str(cache),  # of the embedded names
    }
    return _last_line([*command, "--started", str(time.time())], environment)


def measure_torch(options: argparse.Namespace, job: dict, names: int, folder: Path) -> dict:
    """Figures of the same work in PyTorch, in a fresh process."""
    job |= {"words": own_words(options.label_space, names), "started": time.time()}
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return _last_line([sys.executable, str(Path(__file__).with_name("infer_torch.py")), str(path)])


def _last_line(command: list[str], environment: dict | None = None) -> dict:
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_random_model(config, folder: Path) -> None:
    """A model folder as `ovseg convert` and `ovseg export` leave it."""
    from ovseg_jax import models
    from ovseg_jax.weights import save_weights

    folder.mkdir()
    _, params, stats = models.initialize_model(config)
    models.write_model_files(folder, config)
    save_weights(folder / "model.safetensors", {**params, **stats})


class Windows:
    """How the recipe cuts the picture: its size after resizing, corners and patches."""

    def __init__(self, config, height: int, width: int):
        from ovseg_jax.inference import resized_size
        from ovseg_jax.ops.windows import num_windows, window_starts

        protocol, patch = config.eval, config.system.clip.image.patch_size
        self.size = resized_size((height, width), protocol.short_side)
        self.crop = (protocol.crop,) * 2 if protocol.crop else self.size
        self.patches = (self.crop[0] // patch) * (self.crop[1] // patch)
        starts = []
        for size, crop in zip(self.size, self.crop, strict=True):
            count = num_windows(size, crop, protocol.stride) if protocol.crop else 1
            starts.append(window_starts(size, count, crop, protocol.stride).tolist())
        self.corners = list(itertools.product(*starts))


def torch_job(config, windows: Windows, options: argparse.Namespace) -> dict:
    """What `infer_torch.py` has to know of the recipe."""
    return {
        "picture": (options.height, options.width),
        "size": windows.size,
        "crop": windows.crop[0],
        "corners": windows.corners,
        "mean": [value / 255.0 for value in config.image.mean],
        "std": [value / 255.0 for value in config.image.std],
        "template": config.vocabulary.templates,
        "repeats": options.repeats,
    }


HEADER = (
    "names",
    "first mask s, cold",
    "with cache",
    "of it loading",
    "s/picture min",
    "median",
    "pictures/s",
    "with other words s",
    "of peak",
    "peak host GiB",
    "peak device GiB",
)
COMPILED = ("names", "by the first picture", "the same again", "other words", "another size")
TORCH = ("names", "first mask s", "s/picture min", "with other words s", "peak host GiB")
TORCH_NAMES = 1000  # PyTorch would hold all scores of all names at once


def main() -> None:
    options = _parser().parse_args()
    if options.child:
        run_child(options)
        return

    import jax

    from benchmarks import flops, machine

    jax.config.update("jax_enable_compilation_cache", False)
    config = machine.load_recipe(options.size, options.set)
    config.dtype = options.dtype
    options.label_space = config.vocabulary.label_space
    print(machine.describe())
    peak, peak_size = machine.matmul_peak(options.dtype)
    print(f"matrix-product peak, {options.dtype}: {peak / GIGA:.0f} GFLOP/s at {peak_size}")
    default = PICTURES[options.size]
    options.height, options.width = options.height or default[0], options.width or default[1]
    windows = Windows(config, options.height, options.width)
    print(
        f"\n{options.size}: pictures of {options.height} x {options.width}, "
        f"{len(windows.corners)} window(s)\n"
    )
    against_torch = options.size == "clip" and importlib.util.find_spec("torch")

    rows, compiled, ratios = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_random_model(config, folder)
        for names in options.names or NAMES[options.size]:
            cache = Path(temporary) / f"cache_{names}"
            cold, warm = (measure(options, folder, names, cache) for _ in range(2))
            padded = -(-names // 16) * 16  # as `ovseg_jax.predict` pads a vocabulary
            work = len(windows.corners) * flops.window(config, windows.patches, padded)
            rows.append(_row(names, cold, warm, work / peak))
            compiled.append((names, *cold["compiled"]))
            if against_torch and names <= TORCH_NAMES:
                job = torch_job(config, windows, options)
                theirs = measure_torch(options, job, names, Path(temporary))
                ratios.append(_ratios(names, theirs, cold, warm))
    print(machine.table(HEADER, rows))
    print(f"\nprograms compiled\n\n{machine.table(COMPILED, compiled)}")
    if ratios:
        print(f"\nPyTorch, and in brackets how many times ours\n\n{machine.table(TORCH, ratios)}")


def _row(names: int, cold: dict, warm: dict, best_seconds: float) -> tuple:
    least, median = warm["seconds"]
    return (
        names,
        cold["first"],
        warm["first"],
        warm["loaded"],
        least,
        median,
        1 / least,
        warm["other_words"],
        f"{100 * best_seconds / least:.1f} %",
        warm["host"],
        warm["device"],
    )


def _ratios(names: int, theirs: dict, cold: dict, warm: dict) -> tuple:
    pairs = (
        (theirs["first"], cold["first"]),
        (min(theirs["seconds"]), warm["seconds"][0]),
        (theirs["other_words"], warm["other_words"]),
        (theirs["host"], warm["host"]),
    )
    return (names, *(f"{their:.3g} ({their / our:.2f})" for their, our in pairs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=PICTURES, default="demo", help="which recipe")
    add(
        "--names",
        type=int,
        nargs="+",
        help="numbers of names (default: real 20 171, demo 20 100, clip 20 847 10000)",
    )
    add("--height", type=int, help="of the picture (default: 512, demo 96)")
    add("--width", type=int, help="of the picture (default: 683, demo 96)")
    add("--repeats", type=int, default=10, help="timed pictures (default: %(default)s)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="compute type")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    # How the program calls itself.
    for name, kind in (("--child", str), ("--started", float), ("--label-space", str)):
        add(name, type=kind, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
