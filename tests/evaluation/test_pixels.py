"""Boundaries in the loop, and which data its figures are for."""

import numpy as np
import pytest
from fake_system import NAMES, color_model, color_vocabulary, scene

from ovseg_jax.errors import UserError
from ovseg_jax.evaluation.pixels import evaluate_segmentation
from ovseg_jax.inference import Protocol
from ovseg_jax.metrics import mmseg
from ovseg_jax.metrics.boundary import boundary_confusion, boundary_distance
from ovseg_jax.text.label_space import LabelSpace

pytestmark = pytest.mark.usefixtures("compiling_fast")

SPACE = LabelSpace("colours", tuple((name,) for name in NAMES))
SIZES = ((60, 90), (64, 96), (40, 44), (60, 90))


def shifted():
    """Pictures of several sizes on two canvases, with labels a little beside them."""
    for index, size in enumerate(SIZES):
        image, label = scene(*size, seed=index)
        label = np.roll(label, 1, axis=1)
        label[:5, :5] = 255
        yield {"image": image, "label": label}


def run(**options):
    model, vocabulary = color_model(), color_vocabulary()
    options = {"batch_size": 2, "report_images": len(SIZES), **options}
    return evaluate_segmentation(model, vocabulary, shifted(), SPACE, Protocol(), **options)


@pytest.mark.parametrize("ratio", [0.02, 0.05])
def test_boundary_iou_is_that_of_whole_pictures(ratio):
    result, shown = run(boundary=ratio)
    matrices = [
        boundary_confusion(
            example.truth,
            example.prediction,
            len(NAMES),
            distance=boundary_distance(example.truth.shape, ratio),
        )
        for example in shown["Pictures"]
    ]
    assert {example.truth.shape for example in shown["Pictures"]} == set(SIZES)
    iou = 100 * mmseg.scores(np.sum(matrices, axis=0))["IoU"]
    assert list(result["boundary_IoU"].values()) == iou.tolist()
    assert result["boundary_mIoU"] == pytest.approx(iou.mean())
    assert 0 < result["boundary_mIoU"] < result["mIoU"]
    assert result["protocol"]["boundary"] == ratio


def test_without_boundaries_nothing_is_said_of_them():
    result, _ = run()
    assert not any("boundary" in key for key in result) and result["protocol"]["boundary"] == 0


@pytest.mark.parametrize("metrics", ["fusioner", "hsnet"])
def test_metrics_of_episodes_are_refused(metrics):
    with pytest.raises(UserError, match=f"'{metrics}' are for episodes .* to mmseg or detectron2"):
        run(metrics=metrics)
