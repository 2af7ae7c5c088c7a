"""``python -m ovseg_jax.main --config FILE [--workdir DIR] [--mode …]``: train and evaluate."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from ovseg_jax.errors import UserError
from ovseg_jax.training.logs import say

FLAGS = flags.FLAGS
MODES = ("train_and_eval", "train", "eval")

USAGE = """Trains a system by a recipe and evaluates it.

  python -m ovseg_jax.main --config configs/shapes/zegclip.py
  python -m ovseg_jax.main --config configs/shapes/zegclip.py --mode eval
  python -m ovseg_jax.main --config configs/zegclip/voc_inductive.py --config.train.steps=100

A run that was stopped resumes when the same command is given again."""


def define_flags() -> None:
    """Defines the command-line flags (called once, by `run`: importing this module does nothing)."""
    config_flags.DEFINE_config_file("config", None, "Recipe file; --config.a.b=value overrides.")
    flags.DEFINE_string("workdir", None, "Run folder; default runs/<folder>_<recipe>.")
    flags.DEFINE_enum("mode", "train_and_eval", MODES, "What to do.")
    flags.DEFINE_string("resume", "latest", "Checkpoint to resume from: latest or previous.")


def default_workdir(config_path: str) -> Path:
    """``configs/shapes/zegclip.py:arg`` -> ``runs/shapes_zegclip_arg``."""
    path, _, argument = config_path.partition(":")
    name = f"{Path(path).parent.name}_{Path(path).stem}"
    return Path("runs") / (f"{name}_{argument}" if argument else name)


def parse(argv: list[str]) -> None:
    """Parses the flags; every mistake in them becomes a `UserError`."""
    path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), None)
    if "--config" in argv[:-1]:
        path = argv[argv.index("--config") + 1]
    if path is None:
        raise UserError("no recipe given; add --config configs/shapes/zegclip.py or another file.")
    if not Path(path.partition(":")[0]).is_file():
        raise UserError(f"no recipe at {path}; the shipped ones are listed in configs/.")
    try:
        rest = FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        message = " ".join(str(error).strip("\"'").split())
        raise UserError(f"{message} (check the keys and values against {path})") from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]}; see --help.")


def main(argv: list[str]) -> None:
    """Runs the mode that the command line asks for."""
    define_flags()
    if "--help" in argv or "-h" in argv:
        print(USAGE, "\n", FLAGS.main_module_help())
        return
    parse(argv)
    from ovseg_jax import evaluate, train  # after the flags: they are the slow imports

    config = FLAGS.config
    path = config_flags.get_config_filename(FLAGS["config"])
    workdir = Path(FLAGS.workdir) if FLAGS.workdir else default_workdir(path)
    if FLAGS.mode != "eval":
        say(f"training {path} in {workdir}")
        train.train(config, workdir, resume=FLAGS.resume)
    if FLAGS.mode != "train":
        evaluate.evaluate_run(config, workdir)


def run() -> None:
    """Entry point: a `UserError` is one sentence on standard error and exit status 1."""
    try:
        main(sys.argv)
    except UserError as error:
        print(f"ovseg: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
