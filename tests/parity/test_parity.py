"""Recorded references: those in the clone, and the full set where it lies beside it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ovseg_jax import cli
from ovseg_jax.errors import UserError
from ovseg_jax.parity import runner

CLONE = Path(__file__).parents[1] / "golden"
BESIDE = Path(__file__).parents[3] / "shared" / "golden"
SMALL = CLONE / "zegclip" / "text_encoder.npz"


def recorded() -> list[Path]:
    """One path per recorded file that has a comparison; the full set takes precedence."""
    found = {}
    for root in (CLONE, BESIDE):
        for path in sorted(root.glob("**/*.npz")):
            meta = json.loads(str(np.load(path)["meta"]))
            if (meta.get("system"), meta.get("kind")) in runner.COMPARE:
                found[path.relative_to(root)] = path
    return list(found.values())


@pytest.mark.parametrize("path", recorded(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recorded(path):
    rows = runner.compare_file(path)
    assert rows
    assert not [row for row in rows if not row.ok]


def altered(tmp_path, change) -> Path:
    with np.load(SMALL) as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    path = tmp_path / "altered.npz"
    np.savez(path, **arrays)
    return path


def test_a_wrong_value_fails(tmp_path, capsys):
    def change(arrays):
        arrays["out/text_raw"][0, 0] += 0.01

    assert cli.main(["parity", str(altered(tmp_path, change)), str(SMALL)]) == 1
    printed = capsys.readouterr().out
    assert "2 files, 6 quantities, 1 failed" in printed
    assert [line for line in printed.splitlines() if "out/text_raw" in line and "NO" in line]


def test_a_wrong_parameter_fails(tmp_path):
    def change(arrays):
        arrays["param/text_encoder.ln_final.bias"] += 0.1

    assert not all(row.ok for row in runner.compare_file(altered(tmp_path, change)))


def test_a_reference_without_counterpart_fails_and_says_so(tmp_path):
    def change(arrays):
        arrays["out/surprise"] = np.zeros(3)

    (row,) = [r for r in runner.compare_file(altered(tmp_path, change)) if not r.ok]
    assert row.quantity == "out/surprise"
    assert "not compared" in row.note


def test_a_wrong_shape_fails_and_says_so(tmp_path):
    def change(arrays):
        arrays["out/text_raw"] = arrays["out/text_raw"][:, :-1]

    (row,) = [r for r in runner.compare_file(altered(tmp_path, change)) if not r.ok]
    assert "(6, 16) instead of (6, 15)" in row.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("meta"), "'meta'"),
        (lambda a: a.update(meta="no json"), "'meta'"),
        (lambda a: a.update(meta='{"system": "x"}'), "system and kind"),
        (lambda a: a.update(meta='{"system": "zegclip", "kind": "tset"}'), "nearest"),
        (lambda a: a.pop("in/tokens"), "lacks the entry"),
        (lambda a: a.pop("param/text_encoder.ln_final.bias"), "clip/text/norm/bias"),
        (lambda a: a.update({"param/other": np.zeros(1)}), "no rule: other"),
    ],
)
def test_foreign_files(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        runner.compare_file(altered(tmp_path, change))


def test_unreadable_files(tmp_path, capsys):
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(SMALL.read_bytes()[:3000])
    paths = [text, single, cut, tmp_path / "missing.npz"]
    assert not runner.run(paths)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 4
    assert lines[-1] == "4 files, 0 quantities, 4 failed"


def test_nan_must_meet_nan():
    expected = np.array([1.0, np.nan])
    assert runner._compare("q", expected, runner.output(expected)).ok
    assert not runner._compare("q", expected, runner.output(np.array([1.0, 2.0]))).ok
    assert not runner._compare("q", np.array([1.0, 2.0]), runner.output(expected)).ok


def test_agreement_allows_ties_and_no_more():
    expected = np.zeros(10_000, np.int32)
    ours = expected.copy()
    ours[:10] = 1
    assert runner._compare("q", expected, runner.label_map(ours)).ok
    ours[10] = 1
    assert not runner._compare("q", expected, runner.label_map(ours)).ok


def test_command():
    done = subprocess.run(
        [sys.executable, "-m", "ovseg_jax.parity", str(SMALL)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 files, 3 quantities, 0 failed"
