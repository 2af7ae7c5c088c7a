"""The training loop, top to bottom: data, model, optimizer, step, resume, loop."""

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax import models
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.inference import Model
from ovseg_jax.ops.images import normalize
from ovseg_jax.params import Flat, merge_model, model_state
from ovseg_jax.training import mesh as meshes
from ovseg_jax.training.checkpoints import Checkpoints, choose_step, read_config
from ovseg_jax.training.logs import MetricLog, Throughput, progress_bar, say
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import split_trainable
from ovseg_jax.weights import check_fit, load_weights, save_weights


def make_train_step(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, config: ConfigDict
) -> Callable:
    """Returns the pure step ``(state, frozen, vocabulary, batch, key) -> (state, scalars)``.

    ``state`` holds ``step``, ``params`` (trained, by path), ``stats`` (other variables of the
    model), ``opt_state`` and, where ``config.train.ema_decay`` is not 0, the running average
    ``ema``. Frozen parameters are an argument of their own, so nothing is computed for their
    gradients. The key of a step is derived from its number: a resumed run continues the stream.
    """
    ema_decay = config.train.ema_decay

    def train_step(state, frozen, vocabulary, batch, key):
        key = jax.random.fold_in(key, state["step"])
        batch = {**batch, "image": normalize(batch["image"], config.image.mean, config.image.std)}

        def loss_of(params):
            model = merge_model(graphdef, {**params, **frozen}, state["stats"])
            # Made in here: Rngs count their draws, which no other transformation may do for them.
            loss, scalars = model.loss(batch, vocabulary, nnx.Rngs(key))
            return loss, (scalars, model_state(model))

        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (scalars, stats)), grads = gradient(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {"step": state["step"] + 1, "params": params, "stats": stats, "opt_state": opt_state}
        if ema_decay:
            new["ema"] = optax.incremental_update(params, state["ema"], 1.0 - ema_decay)
        return new, {"loss": loss, "grad_norm": optax.tree.norm(grads), **scalars}

    return train_step


def initial_state(params: Flat, stats: Flat, optimizer, ema: bool) -> dict:
    """The train state before the first step."""
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "stats": stats,
        "opt_state": optimizer.init(params),
    }
    return state | ({"ema": jax.tree.map(jnp.copy, params)} if ema else {})


def write_run_files(workdir: Path, config: ConfigDict, frozen: Mapping, notes: Mapping) -> None:
    """Writes what makes a run folder complete besides its checkpoints."""
    workdir.mkdir(parents=True, exist_ok=True)
    atomic_write(workdir / "config.json", config.to_json_best_effort(indent=1).encode())
    models.write_model_files(workdir, config, notes)
    save_weights(workdir / "frozen.safetensors", frozen)


def check_same_run(workdir: Path, config: ConfigDict) -> None:
    """Raises unless a folder with checkpoints was started with the same recipe.

    What does not change the numbers of the training itself (logging, evaluation, the mesh) may
    differ.
    """

    def recipe(values):
        free = ("eval", "mesh", "tensorboard", "unreadable")
        train = {key: value for key, value in values["train"].items() if not is_free(key)}
        rest = {key: value for key, value in values.items() if key not in free}
        return rest | {"train": train, "data": values["data"]["train"]}

    def is_free(key):
        return key.endswith("_every") or key == "keep_checkpoints"

    before, now = recipe(read_config(workdir)), recipe(json.loads(config.to_json_best_effort()))
    if before != now:
        sections = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
        raise UserError(
            f"{workdir} holds a run with another recipe (section {', '.join(sections)} differs); "
            "choose another --workdir, or delete that folder to start anew."
        )


def _due(number: int, every: int) -> bool:
    """Whether something happens after this step; every 0 steps means never."""
    return every > 0 and number % every == 0


def train(
    config: ConfigDict,
    workdir: str | Path,
    resume: str = "latest",
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
) -> dict:
    """Trains a system as the config says and leaves a complete run folder.

    Args:
        config: the whole recipe.
        workdir: the run folder; where it holds checkpoints of the same recipe, training resumes.
        resume: 'latest', or 'previous' to leave out a damaged newest checkpoint.
        evaluate: model -> scalars by name, called every ``config.train.eval_every`` steps.

    Returns:
        The scalars of the last logged step; none for a system without anything to train, whose run
        folder is complete at once.

    Raises:
        UserError: a mistake in the config, unreadable data, a full disk, a damaged checkpoint, or
            a loss that is not finite.
    """
    workdir = Path(workdir)
    if (workdir / models.WEIGHTS).is_file():
        raise UserError(
            f"{workdir} holds a whole model and no run; evaluate it with --mode eval, or name it "
            "in config.pretrained and give another --workdir."
        )
    start = choose_step(workdir, resume)  # None = from the beginning
    if start is not None:
        check_same_run(workdir, config)

    # --- Mesh -------------------------------------------------------------------------------------
    mesh = meshes.create_mesh(config.mesh.fsdp)

    # --- Model: graph, parameters (pretrained where the config says so), what trains --------------
    graphdef, params, stats = models.initialize_model(config)
    groups = merge_model(graphdef, params, stats).param_groups()
    trainable, frozen = split_trainable(params, groups)
    notes = models.warning_notes(config, frozen)
    if start is not None:
        # What the run began with, whatever has become of the pretrained folder since.
        saved = load_weights(workdir / "frozen.safetensors")
        check_fit(frozen, saved, str(workdir / "frozen.safetensors"))
        frozen = saved
    if not trainable:
        if jax.process_index() == 0:
            write_run_files(workdir, config, {**frozen, **stats}, notes)
        say(f"{config.system.name} has nothing to train; {workdir} holds the model as it is")
        return {}

    # --- Vocabulary: embedded once, with the frozen text encoder ----------------------------------
    vocabulary = None
    if config.vocabulary.train_subset:
        model = models.create_model(config, graphdef, {**trainable, **frozen}, stats)
        vocabulary = models.create_vocabulary(config, model, config.vocabulary.train_subset)
        vocabulary = jax.device_put(vocabulary, meshes.replicated(mesh))

    # --- Data -------------------------------------------------------------------------------------
    loader = models.create_loader(config, config.data.train, config.train.batch_size)

    # --- Optimizer, shapes and shardings of the state ---------------------------------------------
    optimizer = build_optimizer(
        config.optimizer, config.schedule, config.train.steps, groups, trainable
    )
    init = functools.partial(initial_state, optimizer=optimizer, ema=bool(config.train.ema_decay))
    shapes = jax.eval_shape(init, trainable, stats)
    shardings = meshes.state_shardings(shapes, trainable, mesh)

    # --- Step -------------------------------------------------------------------------------------
    train_step = jax.jit(
        make_train_step(graphdef, optimizer, config),
        donate_argnums=0,
        out_shardings=(shardings, meshes.replicated(mesh)),
    )
    key = jax.random.key(config.seed)

    with Checkpoints(workdir, keep=config.train.keep_checkpoints) as checkpoints:
        # --- State: new, or as it was -------------------------------------------------------------
        if start is None:
            if jax.process_index() == 0:
                write_run_files(workdir, config, frozen, notes)
            state = jax.jit(init, out_shardings=shardings)(trainable, stats)
        else:
            state = checkpoints.restore(meshes.with_shardings(shapes, shardings), start)
            checkpoints.delete_after(start)
            say(f"resuming {workdir} at step {start}")
        frozen = jax.device_put(frozen, meshes.param_shardings(frozen, mesh))

        # --- Loop ---------------------------------------------------------------------------------
        first, last = start or 0, config.train.steps
        rate, scalars, summary = Throughput(), {}, {}
        batches = itertools.islice(loader.batches(start_step=first), max(last - first, 0))
        with (
            MetricLog(workdir, first, tensorboard=config.tensorboard) as log,
            progress_bar(last, initial=first) as bar,
        ):
            for number, batch in enumerate(batches, start=first + 1):
                batch = meshes.put_batch(batch, mesh)
                before = scalars
                state, scalars = train_step(state, frozen, vocabulary, batch, key)
                # One step runs while the host prepares the next; more would only pile up batches.
                jax.block_until_ready(before)
                rate.add(config.train.batch_size)
                bar.update()
                log_due = _due(number, config.train.log_every) or number == last
                save_due = _due(number, config.train.checkpoint_every) or number == last
                if log_due or save_due:
                    summary = {name: float(value) for name, value in scalars.items()}
                    if not math.isfinite(summary["loss"]):
                        raise UserError(
                            f"the loss is {summary['loss']} at step {number}; start anew in "
                            "another --workdir with a lower config.optimizer.lr."
                        )
                if log_due:
                    log.write(number, {**summary, "images_per_second": rate.read()})
                    bar.set_postfix(loss=f"{summary['loss']:.3f}", refresh=False)
                if save_due:
                    checkpoints.save(state, meta={"step": number, "config": config.to_dict()})
                if evaluate and _due(number, config.train.eval_every) and number < last:
                    params = {**state.get("ema", state["params"]), **frozen}
                    stats = state["stats"]
                    if jax.process_count() > 1:  # each evaluates its own share of the pictures
                        params, stats = meshes.to_host((params, stats), mesh)
                    model = models.create_model(config, graphdef, params, stats)
                    log.write(number, evaluate(model))
    if loader.skipped:
        say(
            f"{len(loader.skipped)} examples could not be read by this process since it started; "
            "others took their places"
        )
    return summary
