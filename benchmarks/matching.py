"""Time of matching queries with targets: costs, assignment on the device or host, whole criterion.

  python benchmarks/matching.py
  python benchmarks/matching.py --sides 640 --slots 64 --targets 64

All decoder layers and images of a batch at once, as in a training step of MaskFormer: noise as
mask logits at a quarter of the side, rectangular patches as targets, and as many classes as slots.
The host's way is what the device's replaces: costs are fetched, SciPy solves one problem after the
other, and the queries are sent back; the device has nothing to do meanwhile. Both are given the
same costs and must agree. The criterion is matching and losses with their gradient. Ratios are of
the least times of one run.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks import machine
from ovseg_jax.losses.matching import TermWeights, assign_targets, matching_costs
from ovseg_jax.losses.set_criterion import set_losses

WEIGHTS = TermWeights()

HEADER = (
    "side",
    "slots",
    "targets",
    "costs ms",
    "device ms",
    "host ms",
    "criterion ms",
    "device / costs",
    "host / device",
    "matching / criterion",
)


def inputs(layers: int, batch: int, queries: int, side: int, slots: int, targets: int) -> tuple:
    """Arguments of `matching_costs`, on the device."""
    rng = np.random.default_rng(0)
    small = side // 4
    class_logits = rng.standard_normal((layers, batch, queries, slots + 1), np.float32)
    mask_logits = rng.standard_normal((layers, batch, queries, small, small), np.float32)
    labels = rng.integers(0, targets, (batch, side // 16, side // 16))
    labels = labels.repeat(16, axis=1).repeat(16, axis=2)  # [B, side, side]
    masks = labels[:, None] == np.arange(slots)[:, None, None]
    classes = np.where(np.arange(slots) < targets, np.arange(slots), -1)
    classes = np.tile(classes.astype(np.int32), (batch, 1))
    return jax.device_put((class_logits, mask_logits, classes, masks))


def assign_on_host(costs: jax.Array, targets: int) -> jax.Array:
    """What `assign_targets` returns, by SciPy."""
    costs = np.asarray(costs)  # [L, B, Q, K]
    matches = np.full((*costs.shape[:2], costs.shape[3]), -1, np.int32)
    for problem in np.ndindex(matches.shape[:2]):
        queries, matched = linear_sum_assignment(costs[problem][:, :targets])
        matches[problem][matched] = queries
    return jax.device_put(matches)


def total_loss(class_logits, mask_logits, classes, masks) -> jax.Array:
    options = dict(weights=WEIGHTS, no_object_weight=0.1)
    return set_losses(class_logits, mask_logits, classes, masks, **options)[0]


def measure(options: argparse.Namespace, side: int, slots: int, targets: int) -> tuple:
    """One line of the table."""
    arrays = inputs(options.layers, options.batch, options.queries, side, slots, targets)
    cost = jax.jit(lambda *arrays: matching_costs(*arrays, WEIGHTS))
    solve = jax.jit(assign_targets)
    criterion = jax.jit(jax.value_and_grad(total_loss, (0, 1)))
    costs, classes = cost(*arrays), arrays[2]
    if not (solve(costs, classes) == assign_on_host(costs, targets)).all():
        sys.exit("the device's assignment is not the host's")
    calls = (
        lambda: cost(*arrays),
        lambda: solve(costs, classes),
        # Arrays keep what was fetched of them; a sum is a new one.
        lambda: assign_on_host(costs + 0, targets),
        lambda: criterion(*arrays),
    )
    of_costs, device, host, whole = (1000 * min(machine.clock(call)) for call in calls)
    ratios = device / of_costs, host / device, (of_costs + device) / whole
    return side, slots, targets, of_costs, device, host, whole, *ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--layers", type=int, default=6, help="decoder layers (default: %(default)s)")
    add("--batch", type=int, default=4, help="images (default: %(default)s)")
    add("--queries", type=int, default=100, help="of each image (default: %(default)s)")
    add("--sides", type=int, nargs="+", default=[512, 640], help="of the images, in pixels")
    add("--slots", type=int, nargs="+", default=[16, 64], help="padded numbers of targets")
    add("--targets", type=int, nargs="+", default=[12, 64], help="how many of the slots are filled")
    options = parser.parse_args()
    print(machine.describe())
    rows = [
        measure(options, side, slots, min(targets, slots))
        for side in options.sides
        for slots in options.slots
        for targets in options.targets
    ]
    print(machine.table(HEADER, rows))


if __name__ == "__main__":
    main()
