import io
import json
import subprocess
import sys

import numpy as np
import pytest
from fake_system import scene
from PIL import Image
from test_predict import model_folder  # noqa: F401 (a fixture)

from ovseg_jax import cli, files
from ovseg_jax.weights import save_weights


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for index, size in enumerate(((30, 40), (25, 31))):
        paths.append(str(tmp_path / f"p{index}.png"))
        Image.fromarray(scene(*size, seed=index)[0]).save(paths[-1])
    return paths


def segment(model, output, *rest, words="red; green; blue; white"):
    return cli.main(
        ["segment", *rest, f"--words={words}", f"--model={model}", f"--output={output}"]
    )


def test_segment_writes_three_files_per_picture(model_folder, pictures, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "out"
    assert segment(model_folder, output, *pictures) == 0
    names = sorted(path.name for path in output.iterdir())
    assert names == sorted(
        f"p{k}{kind}" for k in (0, 1) for kind in ("_labels.png", "_overlay.png", ".json")
    )
    labels = np.asarray(Image.open(output / "p1_labels.png"))
    assert np.array_equal(labels, scene(25, 31, seed=1)[1])
    assert json.loads((output / "p1.json").read_text())["width"] == 31
    assert "p0_overlay.png" in capsys.readouterr().out


def test_a_bad_picture_is_reported_and_the_rest_goes_on(model_folder, pictures, tmp_path, capsys):  # noqa: F811
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    assert segment(model_folder, tmp_path / "out", str(bad), *pictures) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "bad.png is not a picture" in error
    assert (tmp_path / "out/p1.json").is_file() and not (tmp_path / "out/bad.json").exists()


@pytest.mark.parametrize(
    ("words", "message"), [("", "empty"), (" ; ", "empty"), ("red; red", "named twice")]
)
def test_bad_words(model_folder, pictures, tmp_path, capsys, words, message):  # noqa: F811
    assert segment(model_folder, tmp_path / "out", *pictures, words=words) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_missing_model(pictures, tmp_path, capsys):
    assert segment(tmp_path / "nowhere", tmp_path / "out", *pictures) == 1
    error = capsys.readouterr().err
    assert "no model folder" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_architecture(model_folder, pictures, tmp_path, capsys):  # noqa: F811
    weights = {"colors": np.zeros((9, 3), np.float32), "gain": np.zeros((), np.float32)}
    save_weights(model_folder / "model.safetensors", weights)
    assert segment(model_folder, tmp_path / "out", *pictures) == 1
    error = capsys.readouterr().err
    assert "(9, 3) instead of (5, 3)" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_full_disk(model_folder, pictures, tmp_path, capsys, monkeypatch):  # noqa: F811
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert segment(model_folder, tmp_path / "out", *pictures) == 1
    error = capsys.readouterr().err
    assert "the disk is full; free some space" in error and error.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_pictures_of_one_name_do_not_overwrite_each_other():
    assert cli._stems(["a/x.png", "b/x.jpg", "x_2.png", "y.png"]) == ["x", "x_2", "x_2_2", "y"]


def test_parity_is_passed_on(monkeypatch):
    from ovseg_jax.parity import runner

    seen = []
    monkeypatch.setattr(runner, "run", lambda files: seen.append(files))
    assert cli.main(["parity", "a.npz", "b.npz"]) == 1
    assert seen == [["a.npz", "b.npz"]]
    assert cli.main(["parity"]) == 1


def test_help_has_examples(capsys):
    for arguments in (["--help"], ["segment", "--help"], ["parity", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert 'ovseg segment photo.jpg --words "' in out and "ovseg parity" in out


def test_help_does_not_wait_for_jax():
    code = "import sys, ovseg_jax.cli; print('jax' in sys.modules, 'PIL' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_pictures_and_words_from_lists(model_folder, pictures, tmp_path, monkeypatch):  # noqa: F811
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen, blue\n\nwhite\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(pictures) + "\n"))
    arguments = ["segment", "-", f"--words-file={words}", f"--model={model_folder}"]
    assert cli.main([*arguments, f"--output={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 6
    names = json.loads((tmp_path / "out/p0.json").read_text())["names"]
    assert names == ["red", "green", "white"]


def test_a_packaged_vocabulary(model_folder, pictures, tmp_path, capsys):  # noqa: F811
    arguments = ["segment", pictures[0], f"--model={model_folder}", "--vocabulary=ade15"]
    assert cli.main(arguments) == 1
    assert "did you mean 'ade150'" in capsys.readouterr().err
    missing = ["segment", pictures[0], f"--model={model_folder}", "--words-file=nowhere.txt"]
    assert cli.main(missing) == 1
    assert "cannot read the words in nowhere.txt" in capsys.readouterr().err


def test_background_and_scores(model_folder, pictures, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    rest = ("--background=threshold", "--threshold=0.7", "--scores")
    assert segment(model_folder, out, pictures[0], *rest) == 0
    assert json.loads((out / "p0.json").read_text())["names"][0] == "background"
    with np.load(out / "p0_scores.npz") as saved:
        assert saved["names"][0] == "background" and saved["scores"].shape[-1] == 5


def test_vocabularies_are_listed_and_shown(tmp_path, capsys):
    assert cli.main(["vocabularies"]) == 0
    assert "voc_zegclip" in capsys.readouterr().out
    assert cli.main(["vocabularies", "voc_zegclip"]) == 0
    assert "15  pottedplant" in capsys.readouterr().out
    assert cli.main(["vocabularies", "--json"]) == 0
    assert "ade150" in {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert cli.main(["vocabularies", "voc20", "--json"]) == 0
    mine = tmp_path / "mine.json"
    mine.write_text(capsys.readouterr().out)
    assert cli.main(["vocabularies", str(mine)]) == 0
    assert "diningtable  table" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "lacks the key 'classes'"),
        ('{"classes": ["cat"], "seen": [0], "unseen": [0]}', "lists class 0 twice"),
    ],
)
def test_a_faulty_vocabulary_of_ones_own(tmp_path, pictures, capsys, content, message):
    mine = tmp_path / "mine.json"
    mine.write_text(content)
    commands = (
        ["vocabularies", str(mine)],
        ["segment", pictures[0], "--model=nowhere", f"--vocabulary={mine}"],
    )
    for command in commands:
        assert cli.main(command) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_an_unknown_vocabulary_is_answered_with_the_nearest(capsys):
    assert cli.main(["vocabularies", "voc_zegclp"]) == 1
    error = capsys.readouterr().err
    assert "did you mean 'voc_zegclip'" in error and error.count("\n") == 1


def test_a_vocabulary_of_ones_own(model_folder, pictures, tmp_path):  # noqa: F811
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"classes": ["red", ["green", "blue"], "white"]}))
    out = tmp_path / "out"
    arguments = ["segment", pictures[0], f"--model={model_folder}", f"--vocabulary={mine}"]
    assert cli.main([*arguments, f"--output={out}"]) == 0
    assert json.loads((out / "p0.json").read_text())["names"] == ["red", "green", "white"]


def test_runs_are_compared(tmp_path, capsys):
    for name, crop in (("a", 96), ("b", 96), ("c", 64)):
        result = {"mIoU": crop / 2, "IoU": {"cat": 1.0}, "images": 3, "protocol": {"crop": crop}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    first, second, other = (str(tmp_path / name) for name in "abc")
    assert cli.main(["compare", first, f"{second}/result.json", "--classes"]) == 0
    assert "48.00*" in capsys.readouterr().out
    assert cli.main(["compare", first, other]) == 1
    error = capsys.readouterr().err
    assert "crop: 96 against 64" in error and "--anyway" in error and error.count("\n") == 1
    assert cli.main(["compare", first, other, "--anyway"]) == 0
