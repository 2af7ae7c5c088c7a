"""Time and memory of converting a CLIP checkpoint.

  python benchmarks/convert.py --size ViT-L/14

The checkpoint has random half-precision weights in OpenAI's names. The command runs in a process of
its own, whose largest resident memory is reported; pages of the mapped checkpoint count as such.
"""

import argparse
import resource
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
        write_checkpoint(source, size)
        command = [sys.executable, "-m", "ovseg_jax.convert", str(source), str(model)]
        start = time.perf_counter()
        subprocess.run([*command, "--activation=quick_gelu"], check=True)
        seconds = time.perf_counter() - start
        megabytes = source.stat().st_size / MIB
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print("\n| checkpoint | file MiB | seconds | peak MiB | peak / file |\n|---|---|---|---|---|")
    row = (f"{size}, float16", f"{megabytes:.0f}", f"{seconds:.1f}", f"{peak:.0f}")
    print(f"| {' | '.join(row)} | {peak / megabytes:.2f} |")


if __name__ == "__main__":
    main()
