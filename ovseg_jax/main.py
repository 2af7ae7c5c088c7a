"""``python -m ovseg_jax.main --config FILE [--workdir DIR] [--mode …]``: train and evaluate."""

import difflib
import sys
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from ovseg_jax.errors import UserError

MODES = ("train_and_eval", "train", "eval")

USAGE = """Trains a system by a recipe and evaluates it.

  python -m ovseg_jax.main --config configs/shapes/zegclip.py
  python -m ovseg_jax.main --config configs/shapes/zegclip.py --mode eval
  python -m ovseg_jax.main --config configs/zegclip/voc_inductive.py --config.train.steps=100
  python -m ovseg_jax.main --config configs/zegclip/coco_stuff_inductive.py --mode eval \\
    --config.eval.dataset=context59 --config.eval.root=data/pascal_context
  python -m ovseg_jax.main --config configs/training_free/voc20.py:naclip --mode eval \\
    --config.eval.dataset=pascal5i_0 --config.eval.metrics=hsnet
  python -m ovseg_jax.main --config configs/training_free/voc20.py:naclip --mode eval \\
    --config.eval.oracle=masks --config.eval.boundary=0.02

What the fields of config.eval mean stands in configs/common.py (evaluation) and in
ovseg_jax/inference.py (Protocol).

A run that was stopped resumes when the same command is given again.
"""


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Defines the command-line flags, apart from absl's global ones.

    Args:
        argv: the command line; which keys of the config become flags is read off it.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Recipe file; --config.a.b=value overrides.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_string(
        "workdir", None, "Run folder; default runs/<folder>_<recipe>.", flag_values=values
    )
    flags.DEFINE_enum("mode", "train_and_eval", MODES, "What to do.", flag_values=values)
    flags.DEFINE_enum(
        "resume",
        "latest",
        ("latest", "previous"),
        "Checkpoint to go on from, or to evaluate; the previous one where the latest is damaged.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "distributed",
        False,
        "Join the other processes of a job (TPU pod, Slurm, …; see launch/).",
        flag_values=values,
    )
    return values


def default_workdir(config_path: str) -> Path:
    """``configs/shapes/zegclip.py:arg`` -> ``runs/shapes_zegclip_arg``."""
    path, _, argument = config_path.partition(":")
    name = f"{Path(path).parent.name}_{Path(path).stem}"
    return Path("runs") / (f"{name}_{argument}" if argument else name)


def parse(argv: list[str]) -> flags.FlagValues:
    """Parses the flags; every mistake in them becomes a `UserError`."""
    path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), None)
    if "--config" in argv[:-1]:
        path = argv[argv.index("--config") + 1]
    if path is None:
        raise UserError("no recipe given; add --config configs/shapes/zegclip.py or another file.")
    if not Path(path.partition(":")[0]).is_file():
        raise UserError(f"no recipe at {path}; the shipped ones are listed in configs/.")
    recipe = _parse([argv[0], f"--config={path}"], path)[0].config
    for argument in argv:
        if argument.startswith("--config."):
            _check_key(argument.partition("=")[0].removeprefix("--config."), recipe)
    values, rest = _parse(argv, path)
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]}; see --help.")
    for key, value in config_flags.get_override_values(values["config"]).items():
        _check_tuple(key, value, config_path.get_value(key, recipe))
    return values


def _parse(argv: list[str], path: str) -> tuple[flags.FlagValues, list[str]]:
    values = define_flags(argv)
    try:
        return values, values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        message = str(error).strip()
        if "Traceback" in message:  # of an error that the recipe itself raised
            message = message.splitlines()[-1]
        message = " ".join(message.split())
        raise UserError(f"{message} (check the arguments against {path} and --help)") from error


def _check_key(key: str, recipe: ConfigDict) -> None:
    node, known = recipe, "config"
    for part in key.split("."):
        if not isinstance(node, ConfigDict):
            raise UserError(f"{known} is a value and has no field {part!r}; set {known} itself.")
        if part not in node:
            near = difflib.get_close_matches(part, node, n=1, cutoff=0.0)
            near = f"did you mean {known}.{near[0]}?" if near else f"{known} is empty."
            raise UserError(f"the recipe has no key {known}.{part}; {near}")
        node, known = node[part], f"{known}.{part}"


def _check_tuple(key: str, value, before) -> None:
    """A tuple keeps the kind of its entries, which ml_collections leaves open."""
    if not isinstance(before, tuple) or not before:
        return
    kinds = (int, float) if isinstance(before[0], float) else type(before[0])
    if not all(isinstance(entry, kinds) for entry in value):
        raise UserError(f"config.{key}={value!r} does not fit; give something like {before!r}.")


def main(argv: list[str]) -> None:
    """Runs the mode that the command line asks for."""
    if "--help" in argv or "-h" in argv:
        print(USAGE, define_flags(argv).get_help(), sep="\n")
        return
    given = parse(argv)
    from ovseg_jax import evaluate, models, train  # after the flags: they are the slow imports
    from ovseg_jax.evaluation.results import scalars
    from ovseg_jax.training.logs import say
    from ovseg_jax.training.mesh import join_processes

    if given.distributed:
        join_processes()
    config = given.config
    path = config_flags.get_config_filename(given["config"])
    workdir = Path(given.workdir) if given.workdir else default_workdir(path)
    evaluated = models.on_dataset(config)
    if given.mode != "train":
        # A mistake in the evaluation should not wait until the training is over.
        evaluate.check_evaluation(evaluated)

    # What says where errors come from is for the end; a curve of it would be taken for progress.
    during = ConfigDict(evaluated.to_dict())
    during.eval.update(oracle="", boundary=0.0)

    def scores(model):
        return scalars(evaluate.evaluate_model(during, model)[0])

    if given.mode != "eval":
        say(f"training {path} in {workdir}")
        train.train(config, workdir, resume=given.resume, evaluate=scores)
    if given.mode != "train":
        checkpoint = given.resume if given.mode == "eval" else "latest"
        evaluate.evaluate_run(config, workdir, checkpoint)


def run() -> None:
    """Entry point: a `UserError` is one sentence on standard error and exit status 1."""
    # Orbax logs, with tracebacks, the errors that it raises as well.
    logging.set_verbosity(logging.FATAL)
    try:
        main(sys.argv)
    except UserError as error:
        print(f"ovseg: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
