"""ZegCLIP's settings on the embedded world over several seeds, as one Markdown table.

  python benchmarks/shapes.py --seeds 0 1 2

Runs that are complete are not trained again, so the command may be stopped and given anew.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SETTINGS = ("no_descriptor", "inductive", "transductive", "full")
FIGURES = ("mIoU_seen", "mIoU_unseen", "hIoU", "mIoU", "aAcc")


def run(setting: str, seed: int, root: Path) -> dict:
    """Trains and evaluates one setting with one seed; returns its result."""
    workdir = root / f"{setting}_{seed}"
    if not (workdir / "result.json").is_file():
        command = [sys.executable, "-m", "ovseg_jax.main", f"--workdir={workdir}"]
        command += [f"--config=configs/shapes/zegclip.py:{setting}", f"--config.seed={seed}"]
        if setting == "transductive":  # goes on from the inductive run of the same seed
            command.append(f"--config.pretrained={root / f'inductive_{seed}'}")
        subprocess.run(command, check=True)
    return json.loads((workdir / "result.json").read_text())


def row(name: str, results: list[dict]) -> str:
    """Mean and spread (largest minus smallest) of every figure."""
    cells = []
    for figure in FIGURES:
        values = [result[figure] for result in results]
        cells.append(f"{statistics.mean(values):.1f} ({max(values) - min(values):.1f})")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--root", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    results = {
        setting: [run(setting, seed, arguments.root) for seed in arguments.seeds]
        for setting in sorted(arguments.settings, key=SETTINGS.index)
    }
    print(f"| | {' | '.join(FIGURES)} |\n|---|{'---|' * len(FIGURES)}")
    first = next(iter(results.values()))
    print(row("training-free", [result["training_free"] for result in first]))
    for setting, found in results.items():
        print(row(setting, found))


if __name__ == "__main__":
    main()
