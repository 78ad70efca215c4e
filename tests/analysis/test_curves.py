"""The numbers behind a report's plots, counted by hand."""

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from corank.analysis.evaluated_run import EvaluatedRun, evaluate_run
from corank.analysis.report_figures import quota_recalls, scalars
from corank.training.run import Run


@pytest.fixture(scope="module")
def two_stages(trained: Run) -> EvaluatedRun:
    return evaluate_run(trained, "test")


def test_recall_by_quota_is_the_evaluations(two_stages: EvaluatedRun) -> None:
    curves, random = quota_recalls(two_stages, [6, 18])
    cascade, bounds = two_stages.document["cascade"], two_stages.document["interval"]["cascade"]
    metrics = {
        "rank's top 6": "agree_recall@6@18",
        "true top 6": "truth_recall@6@18",
        "clicks": "click_recall@18",
    }
    assert list(curves) == list(metrics)
    for name, metric in metrics.items():
        curve = curves[name]
        assert curve.low is not None and curve.high is not None
        assert curve.y[1] == pytest.approx(cascade[metric])
        assert (curve.low[1], curve.high[1]) == pytest.approx(tuple(bounds[metric]))
        assert curve.y[0] < curve.y[1]
    assert random.y == pytest.approx([6 / 30, 18 / 30])


def test_a_resumed_run_has_its_steps_once(tmp_path: Path) -> None:
    """Steps after the checkpoint from which a run continues were logged twice; the later ones count."""
    for first, values in ((0, [3.0, 2.0, 9.0]), (2, [1.0, 0.0])):
        with SummaryWriter(str(tmp_path), purge_step=first, filename_suffix=f".{first}") as board:
            for step, value in enumerate(values, start=first):
                board.add_scalar("loss/a", value, step)
    curve = scalars(tmp_path)["loss/a"]
    assert curve.x.tolist() == [0, 1, 2, 3]
    assert curve.y.tolist() == [3, 2, 1, 0]
