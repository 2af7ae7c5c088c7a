"""Recorded evaluations of zsseg, from the outputs of its mask network on."""

from pathlib import Path

import pytest

from ovseg_jax.parity import runner
from ovseg_jax.parity.zsseg import compare_scores

FOLDER = Path(__file__).parents[3] / "shared" / "golden" / "zsseg"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the full set lies beside the clone")
@pytest.mark.parametrize("name", ["eval_ensemble", "eval_separate_adapter"])
def test_scores_follow_from_masks_and_embeddings(name):
    arrays, meta = runner.load(FOLDER / f"{name}.npz")
    quantities = compare_scores(arrays, meta)
    assert {f"out/v{i}_0_sem_seg" for i in range(len(meta["variants"]))} <= quantities.keys()
    rows = [runner._compare(key, arrays[key], quantity) for key, quantity in quantities.items()]
    assert not [row for row in rows if not row.ok]
