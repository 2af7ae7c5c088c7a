"""Time and memory of converting a CLIP checkpoint.

  python benchmarks/convert.py --size ViT-L/14

The checkpoint has random half-precision weights in OpenAI's names. The command runs in a process of
its own, whose largest resident memory is reported; pages of the mapped checkpoint count as such.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

import numpy as np
from flax import nnx

from benchmarks import machine
from ovseg_jax.convert.clip import CLIP_MAP, CLIP_RESNET_MAP
from ovseg_jax.networks.clip import CLIP_SIZES
from ovseg_jax.params import abstract_model
from ovseg_jax.systems.clip import ClipSystem, ClipSystemConfig
from ovseg_jax.weights import save_weights

MIB = 2**20


def write_checkpoint(path: Path, size: str) -> None:
    """Writes random float16 weights of a released size in OpenAI's names."""
    config = ClipSystemConfig(clip=CLIP_SIZES[size])

    def create(rngs: nnx.Rngs) -> ClipSystem:
        return ClipSystem(config, rngs=rngs)

    _, params, stats = abstract_model(create)
    rng = np.random.default_rng(0)
    # One block of noise, repeated: conversion does not look at the values.
    noise = rng.standard_normal(1 << 20, np.float32).astype(np.float16)
    weights = {name: np.resize(noise, leaf.shape) for name, leaf in {**params, **stats}.items()}
    name_map = CLIP_RESNET_MAP if size.startswith("RN") else CLIP_MAP
    save_weights(path, name_map.outward(weights))


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="ViT-L/14", choices=CLIP_SIZES)
    size = parser.parse_args().size
    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        source, model = Path(folder) / "clip.safetensors", Path(folder) / "model"
        # In a process of its own: the largest memory of a child begins with that of its parent.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_checkpoint, args=(source, size)
        )
        writer.start()
        writer.join()
        command = [sys.executable, "-m", "ovseg_jax.convert", str(source), str(model)]
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--activation=quick_gelu"])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit("the conversion failed, see above")
        peak = usage.ru_maxrss / 1024  # of that process alone; Linux counts in KiB
        megabytes = source.stat().st_size / MIB
    print("\n| checkpoint | file MiB | seconds | peak MiB | peak / file |\n|---|---|---|---|---|")
    row = (f"{size}, float16", f"{megabytes:.0f}", f"{seconds:.1f}", f"{peak:.0f}")
    print(f"| {' | '.join(row)} | {peak / megabytes:.2f} |")


if __name__ == "__main__":
    main()
