"""Recorded cases of zsseg in other forms than those at hand."""

import json
from pathlib import Path

import numpy as np

from ovseg_jax.parity.runner import compare_file

EVALUATION = Path(__file__).parents[1] / "golden" / "zsseg" / "eval_separate_adapter.npz"


def test_several_pictures_and_bare_tokens(tmp_path, compiling_fast):
    """The second picture is the first again, behind a variant that does not look at regions."""
    with np.load(EVALUATION) as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays["meta"]))
    meta["variants"].append(dict(meta["variants"][0], clip_ensemble=False))
    again = {
        key.replace("_0", "_1"): value
        for key, value in arrays.items()
        if key.startswith(("in/", "out/")) and "_0" in key
    }
    arrays |= again | {"meta": json.dumps(meta)}
    arrays["in/tokens"] = arrays["in/tokens"][0]  # one prompt per name, as for learned ones
    path = tmp_path / "several.npz"
    np.savez(path, **arrays)
    rows = compare_file(path)
    assert len(rows) == sum(key.startswith("out/") for key in arrays)
    assert not [row for row in rows if not row.ok]
