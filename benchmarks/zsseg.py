"""Speed of zsseg by its parts: a training step, and from a picture to its label map.

  python benchmarks/zsseg.py
  python benchmarks/zsseg.py --regions 100 40 10 --names 156 847 --dtype bfloat16

ResNet-50, 100 queries and CLIP ViT-B/16 of the published recipe, with random weights and noise as
pictures. How many queries cut out a region decides the time of CLIP; here the threshold of the
masks is set so that a wanted number does. Parts are jitted functions of their own, and their times
are set in relation to the whole; what is called a rest is the whole less its parts. GFLOP are the
matrix products and convolutions that JAX traces in the networks.
"""

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks import flops, machine
from benchmarks.train import GIGA, report_parts
from ovseg_jax import models
from ovseg_jax.inference import Canvas, Model, Protocol, lay_on_canvas, segment
from ovseg_jax.losses.matching import TermWeights, assign_targets, matching_costs
from ovseg_jax.losses.set_criterion import set_losses
from ovseg_jax.ops.images import normalize
from ovseg_jax.ops.masks import region_masks
from ovseg_jax.ops.regions import cut_regions
from ovseg_jax.params import merge_model
from ovseg_jax.systems.zsseg import ZSSeg, targets
from ovseg_jax.train import initial_state, make_train_step
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import split_trainable

CROPS = 20  # whose time in CLIP is taken by itself
Row = tuple[str, float, float]  # name, GFLOP, least seconds


def noted(name: str, gflop: float, seconds: float) -> Row:
    """A row, told at once: a run takes minutes."""
    print(f"{name}: {seconds:.4g} s", file=sys.stderr, flush=True)
    return name, gflop, seconds


class Bench:
    """The system taken apart, and clocks for functions of it."""

    def __init__(self, config: ConfigDict, options: argparse.Namespace):
        self.config, self.options = config, options
        self.graphdef, self.params, self.stats = models.initialize_model(config)
        groups = self.system().param_groups()
        self.trained, self.frozen = split_trainable(self.params, groups)
        self.optimizer = build_optimizer(
            config.optimizer, config.schedule, config.train.steps, groups, self.trained
        )

    def system(self, params=None) -> ZSSeg:
        """The system, with some of its parameters replaced."""
        return merge_model(self.graphdef, {**self.params, **(params or {})}, self.stats)

    def vocabulary(self, names: int):
        """Random names."""
        return machine.random_vocabulary(names, self.config.system.clip.embed_dim)

    def row(self, name: str, function, *arguments, counted: bool = True) -> Row:
        """The figures of a function of arrays."""
        work = flops.traced(function, *arguments) if counted else 0.0
        compiled = jax.jit(function)
        seconds = machine.clock(lambda: compiled(*arguments), self.options.repeats)
        return noted(name, work / GIGA, min(seconds))


# --- Training ------------------------------------------------------------------------------------


def training_batch(options: argparse.Namespace, names: int) -> dict[str, jax.Array]:
    """Noise, and labels in squares of 16 pixels with as many classes as wanted."""
    batch = machine.random_batch(options.batch, options.side, options.targets)
    classes = np.where(np.arange(options.slots) < options.targets, np.arange(options.slots), -1)
    listed = np.tile(classes.astype(np.int32), (options.batch, 1))
    return jax.device_put({**batch, "classes": listed})


def training_rows(bench: Bench, names: int) -> list[Row]:
    """The parts of a step, then the whole."""
    batch, vocabulary = training_batch(bench.options, names), bench.vocabulary(names)
    image, key = batch["image"], jax.random.key(0)

    def backbone(params):
        return bench.system(params).maskformer.backbone(image)

    def decoders(params, maps):
        return bench.system(params).maskformer.decode(maps, rngs=nnx.Rngs(key))

    trained = bench.trained
    rows = both_ways(bench, "backbone", backbone, trained)
    maps = jax.jit(backbone)(trained)
    rows += both_ways(bench, "decoders", decoders, trained, maps)
    outputs = jax.jit(decoders)(trained, maps)
    logits = jax.random.normal(key, (*outputs.masks.shape[:3], names + 1))
    classes, listed = targets(batch["classes"], vocabulary)
    masks = region_masks(batch["label"], classes)
    weights = TermWeights()
    costs = functools.partial(matching_costs, weights=weights)
    arguments = (logits, outputs.masks, listed, masks)
    rows.append(bench.row("matching: costs", costs, *arguments, counted=False))
    solved = jax.jit(costs)(*arguments)
    rows.append(bench.row("matching: assignment", assign_targets, solved, listed, counted=False))

    def criterion(logits, maps):
        options = dict(weights=weights, no_object_weight=0.1)
        return set_losses(logits, maps, listed, masks, **options)[0]

    slopes = jax.value_and_grad(criterion, (0, 1))
    name = "criterion with gradient and matching"
    rows.append(bench.row(name, slopes, *arguments[:2], counted=False))
    state = jax.jit(bench.optimizer.init)(trained)

    def update(gradients, state):
        return bench.optimizer.update(gradients, state, trained)

    rows.append(bench.row("optimizer", update, trained, state, counted=False))
    products = sum(gflop for _, gflop, _ in rows)
    return [*rows, noted("whole step", products, step_seconds(bench, vocabulary, batch))]


def step_seconds(bench: Bench, vocabulary, batch: dict) -> float:
    """Least seconds of the training loop's own step."""
    step = jax.jit(make_train_step(bench.graphdef, bench.optimizer, bench.config), donate_argnums=0)
    copies = jax.tree.map(jnp.copy, (bench.trained, bench.stats))
    state = initial_state(*copies, bench.optimizer, bool(bench.config.train.ema_decay))

    def call():
        nonlocal state
        state, scalars = step(state, bench.frozen, vocabulary, batch, jax.random.key(0))
        return scalars["loss"]

    return min(machine.clock(call, bench.options.repeats, warmup=1))


def both_ways(bench: Bench, name: str, function, *arguments) -> list[Row]:
    """Rows of forward and of backward, the latter the time of both less that of forward."""

    def scalar(*arguments):
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(function(*arguments)))

    gradient = jax.value_and_grad(scalar, tuple(range(len(arguments))))
    _, work, seconds = forward = bench.row(f"{name} forward", function, *arguments)
    _, all_work, both = bench.row(name, gradient, *arguments)
    return [forward, (f"{name} backward", all_work - work, both - seconds)]


# --- Inference -----------------------------------------------------------------------------------


def inference_rows(bench: Bench) -> list[Row]:
    """One picture: encoding it with each number of regions, naming its pixels, and the parts."""
    config, options = bench.config, bench.options
    pixels = np.random.default_rng(0).integers(0, 256, (*options.picture, 3), np.uint8)
    protocol = Protocol.from_config(config.eval)
    canvas = lay_on_canvas(pixels, protocol)
    sizes, originals = (np.asarray([n], np.int32) for n in (canvas.size, canvas.original_size))
    image = normalize(canvas.pixels[None], config.image.mean, config.image.std)

    def propose(params, image):
        return bench.system(params).maskformer(image, all_layers=False)

    def look(params, crops):
        return bench.system(params).clip.encode_image(crops)

    proposing = bench.row("backbone and decoders", propose, bench.params, image)
    outputs = jax.jit(propose)(bench.params, image)
    rows = [proposing, *region_rows(bench, image[0], outputs.masks[-1, 0])]
    side = config.system.region_size
    crops = jax.random.normal(jax.random.key(0), (CROPS, side, side, 3))
    rows.append(bench.row(f"CLIP on {CROPS} regions", look, bench.params, crops))

    def segmented(system, names):
        model = Model.of(system, config.image.mean, config.image.std)
        picture = (canvas.pixels[None], sizes, originals)
        known = dict(protocol=protocol, label_shape=canvas.label_shape)
        call = functools.partial(segment, model, bench.vocabulary(names), *picture, **known)
        return min(machine.clock(call, options.repeats))

    for names in options.names:
        # Without CLIP, whose time would hide that of the rest.
        system = changed(bench.system(), ensemble=False)
        rest = segmented(system, names) - proposing[2]
        rows.append(noted(f"from masks to label map, {names} names", 0.0, rest))
    for count in options.regions:
        threshold = find_threshold(outputs.masks[-1, 0], count, canvas)
        system = changed(bench.system(), mask_threshold=threshold)
        rows.append(encode_row(bench, system, image, sizes))
    whole = segmented(system, options.names[0])
    rows.append(noted(f"whole, {options.names[0]} names", 0.0, whole))
    return rows


def changed(system: ZSSeg, **choices) -> ZSSeg:
    """The system with other choices that need no other parameters."""
    system.config = dataclasses.replace(system.config, **choices)
    return system


def encode_row(bench: Bench, system: ZSSeg, image: jax.Array, sizes: np.ndarray) -> Row:
    """All that is done without names, and how many regions there were."""
    model = Model.of(system, (0,) * 3, (1,) * 3)
    encode = jax.jit(lambda model: model.system().encode(image, sizes))
    found = int(encode(model).valid.sum())
    seconds = min(machine.clock(lambda: encode(model), bench.options.repeats, warmup=0))
    return noted(f"all before the names, {found} regions", 0.0, seconds)


def region_rows(bench: Bench, image: jax.Array, logits: jax.Array) -> list[Row]:
    """From the logits of masks to what CLIP is shown."""
    boxes = jnp.tile(
        jnp.asarray([0, 0, image.shape[1], image.shape[0]], jnp.int32), (len(logits), 1)
    )

    def probabilities(logits):
        return ZSSeg._probabilities(logits, image.shape[:2])

    masks = jax.jit(probabilities)(logits) > 0.5

    def cut(masks, boxes):
        return cut_regions(image, masks, boxes, bench.config.system.region_size, jnp.zeros(3))

    return [
        bench.row("probabilities of pixels", probabilities, logits, counted=False),
        bench.row("cutting all regions", cut, masks, boxes, counted=False),
    ]


def find_threshold(logits: jax.Array, count: int, canvas: Canvas) -> float:
    """What leaves `count` of the masks [Q, h, w] a region."""
    height, width = canvas.size
    masks = ZSSeg._probabilities(logits, canvas.pixels.shape[:2])[:, :height, :width]
    highest = np.append(np.sort(np.asarray(masks.max((1, 2))))[::-1], 0.0)
    return float(highest[count - 1 : count + 1].mean())


def main() -> None:
    options = _parser().parse_args()
    config = machine.load_recipe("zsseg", options.set)
    config.dtype = options.dtype
    config.eval.short_side = options.side
    print(machine.describe())
    peak, size = machine.matmul_peak(options.dtype)
    print(f"matrix-product peak, {options.dtype}: {peak / GIGA:.0f} GFLOP/s at {size}")
    bench = Bench(config, options)
    if "inference" in options.parts:
        rows = inference_rows(bench)
        height, width = options.picture
        print(f"\na picture of {height} x {width}, against the last whole\n")
        print(report_parts(rows, peak, rows[-1][2]), flush=True)
    if "training" in options.parts:
        rows = training_rows(bench, options.names[0])
        print(f"\na step of {options.batch} x {options.side} pixels, {options.targets} targets\n")
        print(report_parts(rows, peak, rows[-1][2]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    parts = ("inference", "training")
    add("--parts", nargs="+", choices=parts, default=parts, help="what to measure")
    add("--batch", type=int, default=1, help="pictures of a training step (default: %(default)s)")
    add("--side", type=int, default=512, help="of these, and in inference the shorter")
    add("--slots", type=int, default=64, help="padded number of targets (default: %(default)s)")
    add("--targets", type=int, default=12, help="of each picture (default: %(default)s)")
    add("--picture", type=int, nargs=2, default=(512, 512), help="of inference, in pixels")
    add("--regions", type=int, nargs="+", default=[100, 40, 10], help="masks that are not empty")
    add("--names", type=int, nargs="+", default=[156, 847], help="that compete")
    add("--repeats", type=int, default=5, help="timed calls (default: %(default)s)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="compute type")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    return parser


if __name__ == "__main__":
    main()
