"""Speed and memory of ZegCLIP's training step.

  python benchmarks/train.py --size real --batch 1
  python benchmarks/train.py --size real --batch 1 2 4 --breakdown
  python benchmarks/train.py --size demo --batch 16 --profile trace

The step is the library's own (`ovseg_jax.train.make_train_step`) on the published recipe, with
random weights and noise as pictures: neither changes the arithmetic. Its rate is set in relation to
the fastest matrix product of the same machine in the same run. Batches run in ascending order, so
that the peak of the resident memory belongs to the largest so far.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from benchmarks import flops, machine
from ovseg_jax import models
from ovseg_jax.losses.masks import best_class, mask_losses
from ovseg_jax.networks.zegclip import prompted_features
from ovseg_jax.params import merge_model
from ovseg_jax.train import initial_state, make_train_step
from ovseg_jax.training import mesh as meshes
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import split_trainable

GIGA = 1e9


class Bench:
    """A model with its optimizer and vocabulary, and the step as `ovseg_jax.train` compiles it."""

    def __init__(self, config: ConfigDict, classes: int):
        self.config, self.classes = config, classes
        self.image = config.system.clip.image.image_size
        self.side = self.image // config.system.clip.image.patch_size  # patches
        self.mesh = meshes.create_mesh(config.mesh.fsdp)
        self.graphdef, params, self.stats = models.initialize_model(config)
        groups = merge_model(self.graphdef, params, self.stats).param_groups()
        self.trainable, frozen = split_trainable(params, groups)
        self.frozen = jax.device_put(frozen, meshes.param_shardings(frozen, self.mesh))
        self.optimizer = build_optimizer(
            config.optimizer, config.schedule, config.train.steps, groups, self.trainable
        )
        vocabulary = machine.random_vocabulary(classes, config.system.clip.embed_dim)
        self.vocabulary = jax.device_put(vocabulary, meshes.replicated(self.mesh))
        shapes = jax.eval_shape(self._init, self.trainable, self.stats)
        self.shardings = meshes.state_shardings(shapes, self.trainable, self.mesh)
        self.key = jax.random.key(0)

    def _init(self, params, stats):
        return initial_state(params, stats, self.optimizer, bool(self.config.train.ema_decay))

    def batch(self, size: int) -> dict[str, jax.Array]:
        """A synthetic batch on the devices."""
        return meshes.put_batch(machine.random_batch(size, self.image, self.classes), self.mesh)

    def compile(self, batch: dict):
        """The compiled step and the seconds of tracing and of compiling it."""
        step = jax.jit(
            make_train_step(self.graphdef, self.optimizer, self.config),
            donate_argnums=0,
            out_shardings=(self.shardings, meshes.replicated(self.mesh)),
        )
        init = jax.jit(self._init, out_shardings=self.shardings)
        self.state = init(self.trainable, self.stats)
        start = time.perf_counter()
        lowered = step.lower(self.state, self.frozen, self.vocabulary, batch, self.key)
        traced = time.perf_counter()
        compiled = lowered.compile()
        return compiled, traced - start, time.perf_counter() - traced

    def work(self, batch: int) -> flops.Work:
        """Operations of a step."""
        shapes = {path: value.shape for path, value in self.trainable.items()}
        return flops.train_step(self.config, self.side**2, self.classes, batch, shapes)

    def measure(self, size: int, repeats: int, profile: str | None) -> dict:
        """Figures of the step at one batch size."""
        batch = self.batch(size)
        compiled, trace_seconds, compile_seconds = self.compile(batch)

        def call():
            arguments = (self.frozen, self.vocabulary, batch, self.key)
            self.state, scalars = compiled(self.state, *arguments)
            return scalars["loss"]

        seconds = machine.clock(call, repeats=repeats, warmup=2)
        if profile:
            with jax.profiler.trace(profile):
                jax.block_until_ready(call())
        memory = compiled.memory_analysis()
        return {
            "batch": size,
            "seconds": machine.spread(seconds),
            "gflop": self.work(size).total / GIGA,
            # A loop's body is counted once there, and layout changes and norms are counted too.
            "xla_gflop": (compiled.cost_analysis() or {}).get("flops", float("nan")) / GIGA,
            "trace": trace_seconds,
            "compile": compile_seconds,
            "buffers": memory and memory.temp_size_in_bytes / 2**30,
            "host": machine.host_memory(),
            "device": machine.device_memory(),
        }


# --- Parts of the step ---------------------------------------------------------------------------


def measure_parts(bench: Bench, size: int, repeats: int) -> list[tuple[str, float, float]]:
    """Name, GFLOP and least seconds of the parts of a step, each a jitted function of its own.

    Backward is the time of forward and backward together less that of forward alone.
    """
    config, batch = bench.config, bench.batch(size)
    image, labels = batch["image"].astype(jnp.float32), batch["label"]
    classes, ids = bench.vocabulary.embeddings, bench.vocabulary.class_ids
    rate = config.system.dropout

    def system(trainable):
        return merge_model(bench.graphdef, {**trainable, **bench.frozen}, bench.stats)

    def encode(trainable):
        model = system(trainable)
        options = dict(dropout_rate=rate, rngs=nnx.Rngs(bench.key))
        return prompted_features(model.clip.image, model.prompts, image, **options)[:2]

    def decode(trainable, features):
        cls, patches = features
        scale = config.system.input_scale
        inputs = ((x * scale).astype(jnp.dtype(config.dtype)) for x in (classes, cls, patches))
        rngs = nnx.Rngs(bench.key)
        return system(trainable).head(*inputs, dropout_rate=rate, rngs=rngs)[0]

    def losses(masks):
        chunk = config.system.class_chunk
        return sum(
            mask_losses(
                masks,
                labels,
                ids,
                chunk=chunk,
                ignore_unlabelled=config.system.ignore_unlabelled,
            )
        )

    def accuracy(masks):
        best = best_class(masks, ids, ids >= 0, labels.shape[1:], chunk=config.system.class_chunk)
        return (best == labels).sum()

    features = jax.jit(encode)(bench.trainable)
    masks = jax.random.normal(bench.key, (size, bench.side, bench.side, bench.classes))
    encoder = flops.image_encoder(config, bench.side**2) * size + flops.prompt_projection(config)
    decoder = flops.decoder(config, bench.side**2, bench.classes) * size
    parts = [
        ("image encoder", encode, (bench.trainable,), encoder),
        ("decoder", decode, (bench.trainable, features), decoder),
        ("loss", losses, (masks,), flops.Work()),
    ]
    rows = []
    for name, function, arguments, work in parts:
        forward, both = _forward_and_both(function, arguments, repeats)
        rows.append((f"{name} forward", work.forward / GIGA, forward))
        rows.append((f"{name} backward", work.backward / GIGA, both - forward))
    count = jax.jit(accuracy)
    rows.append(("pixel accuracy", 0.0, min(machine.clock(lambda: count(masks), repeats))))
    rows.append(_optimizer_part(bench, repeats))
    return rows


def _forward_and_both(function, arguments, repeats: int) -> tuple[float, float]:
    def scalar(*arguments):
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(function(*arguments)))

    everything = tuple(range(len(arguments)))
    forward, both = jax.jit(function), jax.jit(jax.value_and_grad(scalar, everything))
    return tuple(min(machine.clock(lambda f=f: f(*arguments), repeats)) for f in (forward, both))


def _optimizer_part(bench: Bench, repeats: int) -> tuple[str, float, float]:
    params = bench.trainable
    state = jax.jit(bench.optimizer.init)(params)
    update = jax.jit(lambda grads, state: bench.optimizer.update(grads, state, params))
    shapes = {path: value.shape for path, value in params.items()}
    seconds = min(machine.clock(lambda: update(params, state), repeats))
    return "optimizer", flops.optimizer(bench.config, shapes) / GIGA, seconds


def block_parts(bench: Bench, size: int, repeats: int) -> list[tuple[str, float, float]]:
    """Name, GFLOP and least seconds of one transformer block, forward, and of what it consists of.

    The last row is a chain of its plain matrix products: what the block would take if all else
    were free.
    """
    vit = bench.config.system.clip.image
    width, tokens = vit.width, 1 + bench.side**2 + bench.config.system.prompt_tokens
    model = merge_model(bench.graphdef, {**bench.trainable, **bench.frozen}, bench.stats)
    layer = model.clip.image.blocks[0]
    dtype = jnp.dtype(bench.config.dtype)
    x = jax.random.normal(bench.key, (size, tokens, width), dtype)
    heads = jax.random.normal(bench.key, (size, vit.heads, tokens, width // vit.heads), dtype)
    square, up = (jax.random.normal(bench.key, (width, n * width), dtype) for n in (1, 4))

    def products(x, heads, square, up):
        attended = (heads @ heads.swapaxes(-1, -2)) @ heads
        for _ in range(4):
            x = x @ square
        return x @ up @ up.T, attended

    work = flops.block(tokens, width) * size
    linears = flops.linear(tokens, width, width, trained=False).forward * size
    scores = flops.attention(tokens, tokens, width).forward * size
    parts = [
        ("block", layer, work.forward),
        ("  attention with projections", layer.attention, 4 * linears + scores),
        ("  MLP", layer.mlp, 8 * linears),
        ("  norm", layer.norm1, 0.0),
        ("  its products alone", products, work.forward),
    ]
    rows = []
    for name, function, work in parts:
        compiled = jax.jit(function)
        # Arguments: what is closed over would be folded into constants.
        arguments = (x, heads, square, up) if function is products else (x,)
        seconds = min(machine.clock(lambda f=compiled, a=arguments: f(*a), repeats))
        rows.append((name, work / GIGA, seconds))
    return rows


# --- Report --------------------------------------------------------------------------------------


def report_step(figures: list[dict], peak: float) -> str:
    """Tables of the step; `peak` in FLOP/s of all devices together."""
    first = figures[0]
    speed, memory = [], []
    for row in figures:
        least, median = row["seconds"]
        speed.append(
            (
                row["batch"],
                least,
                median,
                least / row["batch"],
                row["gflop"],
                row["xla_gflop"],
                row["gflop"] / least,
                f"{100 * row['gflop'] * GIGA / least / peak:.1f} %",
                (least / row["batch"]) / (first["seconds"][0] / first["batch"]),
            )
        )
        memory.append(
            [row[key] for key in ("batch", "trace", "compile", "buffers", "host", "device")]
        )
    speed_header = (
        "batch",
        "s/step min",
        "s/step median",
        "s/image",
        "GFLOP",
        "GFLOP by XLA",
        "GFLOP/s",
        "of peak",
        f"s/image vs batch {first['batch']}",
    )
    memory_header = (
        "batch",
        "trace s",
        "compile s",
        "temporaries GiB",
        "peak host GiB",
        "peak device GiB",
    )
    return f"{machine.table(speed_header, speed)}\n\n{machine.table(memory_header, memory)}"


def report_parts(rows: list[tuple[str, float, float]], peak: float, whole: float) -> str:
    """Table of parts; `whole`: seconds that the last column sets them in relation to."""
    lines = [
        (
            name,
            seconds,
            gflop,
            gflop / seconds if gflop else None,
            f"{100 * gflop * GIGA / seconds / peak:.1f} %" if gflop else None,
            f"{100 * seconds / whole:.1f} %",
        )
        for name, gflop, seconds in rows
    ]
    return machine.table(("part", "s", "GFLOP", "GFLOP/s", "of peak", "of the whole"), lines)


def main() -> None:
    options = _parser().parse_args()
    # Compile times are those of a fresh machine.
    jax.config.update("jax_enable_compilation_cache", False)
    config = machine.load_recipe(options.size, options.set)
    config.dtype = options.dtype
    classes = options.classes or machine.CLASSES[options.size]
    print(machine.describe())
    peaks = {d: machine.matmul_peak(d) for d in dict.fromkeys(("float32", options.dtype))}
    for dtype, (rate, size) in peaks.items():
        print(f"matrix-product peak, {dtype}: {rate / GIGA:.0f} GFLOP/s at {size}")
    peak = peaks[options.dtype][0] * jax.device_count()
    bench = Bench(config, classes)
    print(f"\n{options.size}: {bench.image} px, {classes} classes, {options.dtype}\n")
    sizes = sorted(options.batch)
    figures = [bench.measure(size, options.repeats, options.profile) for size in sizes]
    print(report_step(figures, peak))
    if options.breakdown:
        whole = figures[0]["seconds"][0]
        print(f"\nparts of a step of {sizes[0]}\n")
        print(report_parts(measure_parts(bench, sizes[0], options.repeats), peak, whole))
        rows = block_parts(bench, sizes[0], options.repeats)
        print(f"\none block of the image encoder, forward, batch {sizes[0]}\n")
        print(report_parts(rows, peak, rows[0][2]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--size",
        choices=machine.CLASSES,
        default="demo",
        help="which recipe (default: %(default)s)",
    )
    add("--batch", type=int, nargs="+", default=[1], help="batch sizes, of all devices together")
    add("--repeats", type=int, default=10, help="timed steps (default: %(default)s)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="compute type")
    add("--classes", type=int, help="names that compete (default: 171 real, 88 demo)")
    add("--breakdown", action="store_true", help="also time the parts of a step")
    add("--profile", metavar="DIR", help="write a trace of one step per batch size (jax.profiler)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    return parser


if __name__ == "__main__":
    main()
