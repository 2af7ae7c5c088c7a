"""Checkpoints of a run: atomic, resumable to the exact next step, readable without the optimizer.

Orbax writes them; this module is the only one that knows. A checkpoint has three items: ``params``
(what a model needs: the trained parameters by path, averaged ones under ``ema``, statistics),
``training`` (optimizer and step) and ``meta`` (JSON). A directory that a kill left half-written is
never taken for one.
"""

import errno
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.files import saving
from ovseg_jax.params import Flat

_MODEL = ("params", "ema", "stats")  # of a train state: what is restored without the optimizer


def _leaves(tree) -> Flat:
    """Any tree as ``{key path: leaf}``: the structure of an optimizer state lives in the code."""
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check_leaves(expected: Mapping, saved: Mapping, origin: Path) -> None:
    def differs(key):
        return key not in saved or tuple(saved[key].shape) != tuple(expected[key].shape)

    wrong = sorted({key for key in expected if differs(key)} | (set(saved) - set(expected)))
    if wrong:
        raise UserError(
            f"checkpoint {origin} belongs to another model or optimizer: {len(wrong)} arrays "
            f"differ, first {wrong[0]}; resume with the config that made it, or use another "
            "--workdir."
        )


class Checkpoints:
    """The checkpoints of one run folder; use as a context manager."""

    def __init__(self, workdir: str | Path, keep: int = 2, read_only: bool = False):
        """Opens the folder.

        Args:
            workdir: the run folder.
            keep: how many checkpoints stay.
            read_only: a reader leaves the half-written checkpoint of a run that is at work alone.
        """
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.directory = Path(workdir).absolute() / "checkpoints"
        if not read_only:
            with saving(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
        # Orbax's own `read_only` complains about its other defaults.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            create=False,
        )
        # Named here, because a new process knows the handlers of items only once it has saved some.
        handlers = dict(
            params=ocp.StandardCheckpointHandler(),
            training=ocp.StandardCheckpointHandler(),
            meta=ocp.JsonCheckpointHandler(),
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handlers
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._guard(self._manager.close)  # waits for what is being written

    def _guard(self, call):
        """Runs a write and turns a full disk into one sentence; earlier checkpoints stay."""
        try:
            return call()
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
                raise UserError(
                    f"the disk is full: no checkpoint could be saved in {self.directory}; free "
                    "some space and start the same command again, it resumes from the last good "
                    "one."
                ) from error
            raise

    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def delete_after(self, step: int) -> None:
        """Deletes newer checkpoints than `step`; they would keep their successors from saving."""
        for newer in self.steps():
            if newer > step:
                self._manager.delete(newer)

    def save(self, state: Mapping, meta: Mapping) -> None:
        """Saves a train state (`step`, `params`, optional `ema`, `stats`, `opt_state`)."""
        args = self._ocp.args
        weights = {key: state[key] for key in _MODEL if key in state}
        rest = {key: value for key, value in state.items() if key not in _MODEL}
        items = args.Composite(
            params=args.StandardSave(_leaves(weights)),
            training=args.StandardSave(_leaves(rest)),
            meta=args.JsonSave(dict(meta)),
        )
        self._guard(lambda: self._manager.save(int(state["step"]), args=items))

    def _damage(self, step: int, error: Exception) -> UserError:
        return UserError(
            f"checkpoint {self.directory / str(step)} is damaged ({type(error).__name__}); start "
            "again with --resume=previous to use the one before it, or delete it."
        )

    def _restore(self, step: int, **items):
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**items))
        except Exception as error:  # orbax raises many types for a damaged directory
            raise self._damage(step, error) from error

    def restore(self, abstract_state: Mapping, step: int) -> dict:
        """Restores a whole train state onto the shardings that `abstract_state` asks for."""
        args = self._ocp.args
        weights = {key: abstract_state[key] for key in _MODEL if key in abstract_state}
        rest = {key: value for key, value in abstract_state.items() if key not in _MODEL}
        restored = {}
        for item, tree in (("params", weights), ("training", rest)):
            wanted = _leaves(tree)
            _check_leaves(wanted, self._metadata(step, item), self.directory / str(step))
            found = self._restore(step, **{item: args.StandardRestore(wanted)})[item]
            structure = jax.tree.structure(tree)
            restored |= jax.tree.unflatten(structure, [found[key] for key in wanted])
        return restored

    def _metadata(self, step: int, item: str) -> Mapping:
        """The shapes of the arrays of an item, by key."""
        try:
            metadata = self._manager.item_metadata(step)
            if metadata["params"] is None or metadata["training"] is None:
                raise ValueError("no metadata")
        except Exception as error:  # as above: the type depends on what is damaged
            raise self._damage(step, error) from error
        return metadata[item].tree if hasattr(metadata[item], "tree") else metadata[item]

    def restore_weights(self, step: int) -> Flat:
        """Restores what training changed of the model, by path as numpy arrays.

        Parameters are the averaged ones where these are kept.
        """
        shapes = self._metadata(step, "params")
        wanted = {key: np.empty(leaf.shape, leaf.dtype) for key, leaf in shapes.items()}
        leaves = self._restore(step, params=self._ocp.args.StandardRestore(wanted))["params"]
        averaged = any(key.startswith("['ema']") for key in leaves)
        parts = ("['ema']" if averaged else "['params']", "['stats']")
        return {
            key[len(part) + 2 : -2]: np.asarray(value)
            for part in parts
            for key, value in leaves.items()
            if key.startswith(part)
        }


def saved_steps(workdir: str | Path) -> list[int]:
    """Returns the steps of which a run folder has complete checkpoints, oldest first."""
    if not (Path(workdir) / "checkpoints").is_dir():
        return []
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.steps()


def choose_step(workdir: str | Path, which: str = "latest") -> int | None:
    """Returns the step of the 'latest' checkpoint of a run folder or of the 'previous' one.

    Returns:
        None where 'latest' is asked for and there is none.

    Raises:
        UserError: there is no previous one, or `which` is another word.
    """
    steps = saved_steps(workdir)
    if which == "latest":
        return steps[-1] if steps else None
    if which != "previous":
        raise UserError(f"--resume={which} is unknown; use latest or previous.")
    if len(steps) < 2:
        raise UserError(
            f"{workdir} holds no checkpoint before the newest; delete the folder to start from the "
            "beginning."
        )
    return steps[-2]


def restore_parameters(workdir: str | Path, which: str = "latest") -> Flat:
    """Returns what training changed of the model in a run folder, by path.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    step = choose_step(workdir, which)
    if step is None:
        raise UserError(f"{workdir} holds no checkpoint; train first, or give another --workdir.")
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_weights(step)


def read_config(workdir: str | Path) -> dict:
    """Reads the configuration that a run was started with.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no config.json; it is not the folder of a run.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); start anew in another --workdir.") from error
