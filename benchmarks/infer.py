"""Speed and memory of segmenting pictures with words.

  python benchmarks/infer.py --size demo
  python benchmarks/infer.py --size real --names 20 171
  python benchmarks/infer.py --size clip                    # a converted ViT-B/16, no training

For every number of names two fresh processes load a model folder (random weights) and segment the
same picture through `ovseg_jax.load(...).segment(...)`: the first with an empty compilation cache,
the second with the cache that the first one left. "First mask" counts from the start of the
process: Python, imports, reading the weights, embedding the names with all prompts, compiling.
"""

import argparse
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

    shape = (options.height, options.width, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    segmenter = ovseg_jax.load(options.child)
    loaded = time.time()
    words = own_words(options.label_space, options.names[0])
    segmenter.segment(picture, words)
    first = time.time()
    seconds = machine.clock(
        lambda: segmenter.segment(picture, words).labels, repeats=options.repeats, warmup=1
    )
    start = time.perf_counter()
    segmenter.segment(picture, words[::-1])  # the same number, so nothing compiles
    figures = {
        "loaded": loaded - options.started,
        "first": first - options.started,
        "seconds": machine.spread(seconds),
        "other_words": time.perf_counter() - start,
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
    pairs = (f"{one} near {other}" for one in firsts for other in firsts if one != other)
    return [*words[:count], *itertools.islice(pairs, max(0, count - len(words)))]


def measure(options: argparse.Namespace, folder: Path, names: int, cache: Path) -> dict:
    """Figures of one fresh process."""
    command = [sys.executable, __file__, "--child", str(folder), "--names", str(names)]
    for key in ("height", "width", "repeats", "label_space"):
        command += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command += ["--started", str(time.time())]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = _parser().parse_args()
    if options.child:
        run_child(options)
        return

    import jax

    from benchmarks import flops, machine
    from ovseg_jax import models
    from ovseg_jax.inference import resized_size
    from ovseg_jax.ops.windows import num_windows
    from ovseg_jax.weights import save_weights

    jax.config.update("jax_enable_compilation_cache", False)
    config = machine.load_recipe(options.size, options.set)
    config.dtype = options.dtype
    options.label_space = config.vocabulary.label_space
    print(machine.describe())
    peak, peak_size = machine.matmul_peak(options.dtype)
    print(f"matrix-product peak, {options.dtype}: {peak / GIGA:.0f} GFLOP/s at {peak_size}")
    crop, protocol, default = config.eval.crop, config.eval, PICTURES[options.size]
    options.height, options.width = options.height or default[0], options.width or default[1]
    size = resized_size((options.height, options.width), protocol.short_side)
    counts = [num_windows(n, crop, protocol.stride) if crop else 1 for n in size]
    windows = counts[0] * counts[1]
    patch = config.system.clip.image.patch_size
    patches = (crop // patch) ** 2 if crop else (size[0] // patch) * (size[1] // patch)
    print(
        f"\n{options.size}: pictures of {options.height} x {options.width}, {windows} window(s)\n"
    )

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        _, params, stats = models.initialize_model(config)
        models.write_model_files(folder, config)
        save_weights(folder / "model.safetensors", {**params, **stats})
        del params, stats
        for names in options.names or NAMES[options.size]:
            cache = Path(temporary) / f"cache_{names}"
            cold, warm = (measure(options, folder, names, cache) for _ in range(2))
            least, median = warm["seconds"]
            padded = -(-names // 16) * 16  # as `ovseg_jax.predict` pads a vocabulary
            work = windows * flops.window(config, patches, padded) / GIGA
            rows.append(
                (
                    names,
                    cold["first"],
                    warm["first"],
                    warm["loaded"],
                    least,
                    median,
                    1 / least,
                    warm["other_words"],
                    f"{100 * work * GIGA / least / peak:.1f} %",
                    warm["host"],
                    warm["device"],
                )
            )
    header = (
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
    print(machine.table(header, rows))
    base = rows[0]
    for row in rows:
        print(
            f"{row[0]} names: a cached start takes {row[2] / row[1]:.2f} of a cold one; a picture "
            f"{row[4] / base[4]:.2f} of one with {base[0]} names."
        )


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
