import json
import time

import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.training.logs import MetricLog, Throughput, progress_bar, say


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_line_is_on_the_disk_at_once_and_valid_json(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": float("nan")})
        assert lines(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]


def test_a_resumed_run_repeats_no_line(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in (2, 4, 6):
            log.write(step, {"loss": step / 10})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # as a kill leaves it
    with MetricLog(tmp_path, first=4) as log:
        log.write(6, {"loss": 0.7})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (2, 0.2),
        (4, 0.4),
        (6, 0.7),
    ]


def test_a_folder_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file is in the way"):
        MetricLog(tmp_path / "file")


def test_throughput_starts_anew_at_each_reading():
    rate = Throughput()
    rate.add(1000)
    time.sleep(0.01)
    assert 0 < rate.read() <= 1000 / 0.01
    assert rate.read() == 0


def test_people_read_standard_error(capsys):
    say("hello")
    with progress_bar(3, initial=1) as bar:
        bar.update()
    shown = capsys.readouterr()
    assert shown.out == "" and "hello\n" in shown.err and "2/3" in shown.err
