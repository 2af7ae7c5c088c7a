"""The table that is printed: its columns are those of the metrics."""

from ovseg_jax.evaluation.results import summary_table

PROTOCOL = {"system": "zegclip", "metrics": "mmseg", "oracle": ""}
NAN = float("nan")


def table(figures, **protocol):
    result = {"images": 7, **figures, "protocol": PROTOCOL | protocol}
    return [line.split() for line in summary_table(result).splitlines()]


def test_columns_follow_the_metrics():
    split = {"mIoU_seen": 30.0, "mIoU_unseen": 50.0, "hIoU": 37.5}
    heading, columns, row = table({"mIoU": 40.0, "mAcc": 60.0, "aAcc": 70.0, **split})
    assert heading == ["7", "pictures,", "percent,", "mmseg"]
    assert columns == ["mIoU", "mIoU", "seen", "mIoU", "unseen", "hIoU", "mAcc", "aAcc"]
    assert row == ["zegclip", "40.00", "30.00", "50.00", "37.50", "60.00", "70.00"]
    nothing = dict.fromkeys(split, NAN)
    figures = {"mIoU": 40.0, "fwIoU": 50.0, "mAcc": 60.0, "aAcc": 70.0, **nothing}
    _, columns, row = table(figures, metrics="detectron2_legacy")
    assert columns == ["mIoU", "fwIoU", "mACC", "pACC"] and len(row) == 5
    heading, columns, _ = table({"mIoU": 40.0, "FB-IoU": 50.0}, metrics="hsnet", foreground="…")
    assert heading[:2] == ["7", "episodes,"] and columns == ["mIoU", "FB-IoU"]


def test_oracle_boundaries_and_what_was_there_before_training():
    before = {"mIoU": 20.0}
    heading, columns, first, row, *rest = table(
        {
            "mIoU": 40.0,
            "boundary_mIoU": 25.0,
            "training_free": before,
            "retrieval": {"R@1": 50.0, "pictures": 4},
            "warning": "nobody trained it",
        },
        oracle="masks",
    )
    assert heading[-1] == "'masks'"
    assert columns == ["mIoU", "Boundary", "mIoU"]
    assert first == ["training-free", "20.00", "–"] and row == ["zegclip", "40.00", "25.00"]
    assert rest == [
        ["retrieval:", "R@1", "50.00,", "pictures", "4"],
        ["warning:", "nobody", "trained", "it"],
    ]
