import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.training import mesh as meshes
from ovseg_jax.training.checkpoints import (
    Checkpoints,
    choose_step,
    read_config,
    restore_parameters,
    saved_steps,
)

OPTIMIZER = optax.adam(0.1)


def make_state(step: int, width: int = 5, ema: bool = False):
    rng = np.random.default_rng(step)
    params = {
        "clip/blocks/0/kernel": jnp.asarray(rng.normal(size=(3, width)), jnp.float32),
        "clip/blocks/10/kernel": jnp.asarray(rng.normal(size=(2,)), jnp.bfloat16),
        "scale": jnp.asarray(rng.normal(), jnp.float32),
    }
    state = {
        "step": jnp.asarray(step, jnp.int32),
        "params": params,
        "stats": {"norm/mean": jnp.asarray(rng.normal(size=3), jnp.float32)},
        "opt_state": jax.tree.map(lambda leaf: leaf + 1, OPTIMIZER.init(params)),
    }
    return state | ({"ema": jax.tree.map(lambda leaf: leaf * 2, params)} if ema else {})


def abstract(state):
    mesh = meshes.create_mesh()
    shapes = jax.eval_shape(lambda: state)
    return meshes.with_shardings(shapes, meshes.state_shardings(shapes, state["params"], mesh))


def save(folder, *states, keep=2):
    with Checkpoints(folder, keep=keep) as checkpoints:
        for state in states:
            checkpoints.save(state, meta={"step": int(state["step"])})


def restore(folder, like, step):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(abstract(like), step)


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def truncate(folder, step, item="params"):
    """Cuts the array files of a checkpoint, as a full or failing disk does."""
    files = [path for path in (folder / "checkpoints" / str(step) / item).rglob("d/*")]
    assert files
    for path in files:
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("ema", [False, True])
def test_a_restored_state_is_the_saved_one(tmp_path, ema):
    state = make_state(3, ema=ema)
    save(tmp_path, state)
    assert_equal(restore(tmp_path, make_state(0, ema=ema), 3), state)


def test_weights_and_statistics_come_by_path_and_averaged_where_kept(tmp_path):
    state = make_state(3, ema=True)
    save(tmp_path / "ema", state)
    assert_equal(restore_parameters(tmp_path / "ema"), state["ema"] | state["stats"])
    state = make_state(4)
    save(tmp_path / "plain", state)
    assert_equal(restore_parameters(tmp_path / "plain"), state["params"] | state["stats"])


def test_the_last_two_are_kept(tmp_path):
    save(tmp_path, *(make_state(step) for step in (2, 4, 6, 8)))
    assert saved_steps(tmp_path) == [6, 8] and choose_step(tmp_path) == 8


def test_a_folder_without_checkpoints(tmp_path):
    assert saved_steps(tmp_path / "nowhere") == [] and choose_step(tmp_path) is None
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_parameters(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "said"), [(None, "no config.json"), ("{", "is damaged")])
def test_a_folder_without_a_whole_config(tmp_path, content, said):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read_config(tmp_path)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="a file is in the way"):
        Checkpoints(tmp_path / "run")


@pytest.mark.parametrize("item", ["params", "training"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_whole(tmp_path, item):
    states = make_state(2), make_state(4)
    save(tmp_path, *states)
    truncate(tmp_path, 4, item)
    with pytest.raises(UserError, match=r"checkpoints/4 is damaged .*--resume=previous"):
        restore(tmp_path, states[1], 4)
    assert_equal(restore(tmp_path, states[0], 2), states[0])


def test_missing_parts_of_a_checkpoint_are_damage(tmp_path):
    save(tmp_path, make_state(2))
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "params")
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged"):
        restore(tmp_path, make_state(2), 2)
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged"):
        restore_parameters(tmp_path)


def test_a_damaged_checkpoint_gives_way_to_its_successor(tmp_path):
    save(tmp_path, make_state(2), make_state(4))
    truncate(tmp_path, 4)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.delete_after(2)
        checkpoints.save(make_state(4), meta={})
    assert_equal(restore(tmp_path, make_state(4), 4), make_state(4))


@pytest.mark.parametrize(
    ("like", "named"),
    [
        ({"width": 6}, r"1 arrays differ, first \['params'\]\['clip/blocks/0/kernel'\]"),
        ({"ema": True}, r"3 arrays differ, first \['ema'\]\['clip/blocks/0/kernel'\]"),
    ],
)
def test_another_architecture_names_an_array(tmp_path, like, named):
    save(tmp_path, make_state(2))
    with pytest.raises(UserError, match=f"belongs to another model or optimizer: {named}"):
        restore(tmp_path, make_state(0, **like), 2)


def test_a_reader_leaves_half_written_checkpoints_of_a_run_at_work_alone(tmp_path):
    save(tmp_path, make_state(2))
    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    half.mkdir()
    assert choose_step(tmp_path) == 2 and half.is_dir()
    save(tmp_path, make_state(6))
    assert saved_steps(tmp_path) == [2, 6] and not half.exists()


@pytest.mark.parametrize("during", ["save", "close"])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, during):
    save(tmp_path, make_state(2))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, during, full)
    with pytest.raises(UserError, match="the disk is full") as caught, checkpoints:
        checkpoints.save(make_state(4), meta={})
    monkeypatch.undo()
    checkpoints._manager.close()
    assert str(caught.value).count("\n") == 0
    assert_equal(restore(tmp_path, make_state(2), 2), make_state(2))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_really_fills_up(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=300k tmpfs {folder} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(UserError, match="the disk is full"):
            save(folder, *(make_state(step, width=3000) for step in range(1, 9)), keep=9)
        step = choose_step(folder)
        assert step and step < 8
        assert_equal(restore(folder, make_state(0, width=3000), step), make_state(step, width=3000))
    finally:
        os.system(f"umount -l {folder}")
