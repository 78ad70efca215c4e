"""Tracking of a training with two workers."""

import json
from pathlib import Path
from typing import Any

import pytest

import corank
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own, of SQLAlchemy and pydantic
]
# each worker draws its own rows of feature_dropout
SHORT = ("train.epochs=1", "train.requests=128", "stages.0.feature_dropout={}")


def test_of_two_workers_the_first_tracks(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)  # where MLflow keeps files next to a local database
    uri, run = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    options = [f"--run={run}", "--workers=2"]
    options += [
        f"--track=mlflow,uri={uri},experiment=two,wait_s={PATIENCE}",
        *(f"--set={change}" for change in SHORT),
    ]
    code, _, err = run_corank(capsys, "train", world / "config.yaml", *options)
    assert code == 0, err
    alone = corank.train(world / "config.yaml", SHORT, folder=tmp_path / "alone")
    assert Run.open(run).finished
    client: Any = mlflow.MlflowClient(uri)
    (tracked,) = client.search_runs([client.get_experiment_by_name("two").experiment_id])
    assert tracked.info.run_id == json.loads((run / "tracking" / "mlflow.json").read_text())["run"]
    assert tracked.info.status == "FINISHED"
    for name in ("rank.click.auc", "prerank.click.auc"):
        (metric,) = client.get_metric_history(tracked.info.run_id, f"valid/{name}")
        assert metric.value == pytest.approx(alone.metrics[name], abs=1e-3)
