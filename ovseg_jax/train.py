"""The training loop, top to bottom: data, model, optimizer, step, resume, loop."""

import itertools
import json
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
from ovseg_jax.ops.images import normalize
from ovseg_jax.params import Flat, merge_model, model_state
from ovseg_jax.training import mesh as meshes
from ovseg_jax.training.checkpoints import Checkpoints
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
        rngs = nnx.Rngs(jax.random.fold_in(key, state["step"]))
        batch = {**batch, "image": normalize(batch["image"], config.image.mean, config.image.std)}

        def loss_of(params):
            model = merge_model(graphdef, {**params, **frozen}, state["stats"])
            loss, scalars = model.loss(batch, vocabulary, rngs)
            return loss, (scalars, model_state(model))

        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (scalars, stats)), grads = gradient(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {"step": state["step"] + 1, "params": params, "stats": stats, "opt_state": opt_state}
        if ema_decay:
            new["ema"] = optax.incremental_update(params, state["ema"], 1.0 - ema_decay)
        return new, {"loss": loss, "grad_norm": optax.global_norm(grads), **scalars}

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


def write_run_files(workdir: Path, config: ConfigDict, frozen: Mapping) -> None:
    """Writes what makes a run folder complete besides its checkpoints."""
    workdir.mkdir(parents=True, exist_ok=True)
    atomic_write(workdir / "config.json", config.to_json_best_effort(indent=1).encode())
    models.write_model_files(workdir, config)
    save_weights(workdir / "frozen.safetensors", frozen)


def _resume_step(checkpoints: Checkpoints, resume: str) -> int | None:
    """The step to resume from: the newest checkpoint, or the one before it where asked."""
    if resume not in ("latest", "previous"):
        raise UserError(f"--resume={resume} is unknown; use latest or previous.")
    steps = checkpoints.steps()
    if resume == "previous":
        steps = steps[:-1]
        if not steps:
            raise UserError(
                f"{checkpoints.directory} holds no checkpoint before the newest; delete the folder "
                "to start from the beginning."
            )
    return steps[-1] if steps else None


def check_same_run(workdir: Path, config: ConfigDict) -> None:
    """Raises unless a folder with checkpoints was started with the same recipe.

    What does not change the numbers of the training itself (logging, evaluation) may differ.
    """
    path = workdir / "config.json"
    if not path.is_file():
        return

    def recipe(values):
        train = {k: v for k, v in values["train"].items() if not k.endswith("_every")}
        same = {k: values[k] for k in values if k not in ("train", "eval", "tensorboard")}
        return json.loads(json.dumps({**same, "train": train}))

    before, now = recipe(json.loads(path.read_text())), recipe(json.loads(config.to_json_best_effort()))
    if before != now:
        sections = sorted(key for key in now if now.get(key) != before.get(key))
        raise UserError(
            f"{workdir} holds a run with another recipe (section {', '.join(sections)} differs); "
            "choose another --workdir, or delete that folder to start anew."
        )


def train(config: ConfigDict, workdir: str | Path, resume: str = "latest", evaluate=None) -> dict:
    """Trains a system as the config says and leaves a complete run folder.

    Args:
        config: the whole recipe.
        workdir: the run folder; where it holds checkpoints of the same recipe, training resumes.
        resume: 'latest', or 'previous' to leave out a damaged newest checkpoint.
        evaluate: ``(params) -> {name: value}``, called every ``config.train.eval_every`` steps.

    Returns:
        The scalars of the last logged step.
    """
    workdir = Path(workdir)

    # --- Mesh -------------------------------------------------------------------------------
    mesh = meshes.create_mesh(config.mesh.fsdp)

    # --- Model: graph, parameters (pretrained where the config says so), what trains ----------
    graphdef, params, stats = models.initialize_model(config)
    trainable, frozen = split_trainable(params, models.param_groups(config))
    with Checkpoints(workdir, keep=config.train.keep_checkpoints) as checkpoints:
        step = _resume_step(checkpoints, resume)
        if step is None:
            write_run_files(workdir, config, frozen)
        else:
            check_same_run(workdir, config)
            saved = load_weights(workdir / "frozen.safetensors")
            check_fit(frozen, saved, str(workdir / "frozen.safetensors"))
            frozen = saved
        frozen = jax.device_put(frozen, meshes.param_shardings(frozen, mesh))

        # --- Vocabulary: embedded once, with the frozen text encoder ------------------------------
        vocabulary = None
        if config.vocabulary.train_subset:
            model = models.create_model(config, graphdef, {**trainable, **frozen}, stats)
            vocabulary = models.create_vocabulary(config, model, config.vocabulary.train_subset)
            vocabulary = jax.device_put(vocabulary, meshes.replicated(mesh))

        # --- Data ---------------------------------------------------------------------------------
        loader = models.create_loader(config, config.data.train, config.train.batch_size)

        # --- Optimizer, state, shardings ----------------------------------------------------------
        optimizer = build_optimizer(
            config.optimizer,
            config.schedule,
            config.train.steps,
            models.param_groups(config),
            trainable,
        )
        init = lambda p, s: initial_state(p, s, optimizer, bool(config.train.ema_decay))  # noqa: E731
        shapes = jax.eval_shape(init, trainable, stats)
        shardings = meshes.state_shardings(shapes, trainable, mesh)
        if step is None:
            state = jax.jit(init, out_shardings=shardings)(trainable, stats)
        else:
            abstract = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                shapes,
                shardings,
            )
            state = checkpoints.restore(abstract, step)
            say(f"resuming {workdir} at step {step}")

        # --- Step ---------------------------------------------------------------------------------
        train_step = jax.jit(
            make_train_step(graphdef, optimizer, config),
            donate_argnums=0,
            out_shardings=(shardings, meshes.replicated(mesh)),
        )
        key = jax.random.key(config.seed)

        # --- Loop ---------------------------------------------------------------------------------
        first, last = step or 0, config.train.steps
        log = MetricLog(workdir, tensorboard=config.tensorboard)
        rate, scalars, summary = Throughput(), {}, {}
        batches = itertools.islice(loader.batches(start_step=first), max(last - first, 0))
        with progress_bar(last, initial=first) as bar:
            for number, batch in enumerate(batches, start=first + 1):
                state, scalars = train_step(
                    state, frozen, vocabulary, meshes.put_batch(batch, mesh), key
                )
                rate.add(config.train.batch_size)
                bar.update()
                if number % config.train.log_every == 0 or number == last:
                    summary = {name: float(value) for name, value in scalars.items()}
                    if not jnp.isfinite(summary["loss"]):
                        raise UserError(
                            f"the loss is {summary['loss']} at step {number}; resume from the last "
                            "checkpoint with a lower config.optimizer.lr."
                        )
                    log.write(number, {**summary, "images_per_second": rate.read()})
                    bar.set_postfix(loss=f"{summary['loss']:.3f}")
                if number % config.train.checkpoint_every == 0 or number == last:
                    checkpoints.save(state, meta={"step": number, "config": config.to_dict()})
                if evaluate and number % config.train.eval_every == 0 and number < last:
                    averaged = state.get("ema", state["params"])
                    log.write(number, evaluate({**averaged, **frozen}))
        log.close()
    return summary
