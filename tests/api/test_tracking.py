"""Finished runs written to MLflow, with the results known after training."""

import json
from pathlib import Path

import pytest

from corank.bundle.manifest import load_manifest
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.ports import free_port
from tests.support.shared import copy_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_a_finished_run_is_written_with_intervals_report_and_version(
    trained: Run,
    trained_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)  # where MLflow keeps files next to a local database
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = copy_run(trained, tmp_path / "run").folder
    arguments = ("track", run, f"mlflow,uri={uri},experiment=shop", "--split", "valid")
    code, _, err = run_corank(capsys, *arguments)
    assert code == 0 and f"report: {run / 'report.html'}" in err
    client = mlflow.MlflowClient(uri)
    tracked_run = client.get_run(json.loads((run / "tracking" / "mlflow.json").read_text())["run"])
    assert tracked_run.info.status == "FINISHED" and "train.epochs" in tracked_run.data.params
    assert tracked_run.data.tags["model_version"] == load_manifest(trained_bundle).model_version
    auc = tracked_run.data.metrics["valid/rank.exposed.click.auc"]
    low, high = (tracked_run.data.metrics[f"valid/rank.exposed.click.auc.{end}"] for end in ("low", "high"))
    assert low < auc < high
    figures = tracked_run.data.metrics
    bounded = [name.removesuffix(".low") for name in figures if name.endswith(".low")]
    assert any(name.startswith("valid/cascade.") for name in bounded)
    assert all(figures[f"{name}.low"] <= figures[f"{name}.high"] for name in bounded)
    (artifact,) = client.list_artifacts(tracked_run.info.run_id)
    page = mlflow.artifacts.download_artifacts(
        run_id=tracked_run.info.run_id, artifact_path=artifact.path, tracking_uri=uri
    )
    assert Path(page).read_bytes() == (run / "report.html").read_bytes()


def test_a_tracker_that_is_down_is_an_error(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = copy_run(trained, tmp_path / "run").folder
    code, _, err = run_corank(capsys, "track", run, f"mlflow,uri=http://127.0.0.1:{free_port()}")
    assert code == 1 and err.splitlines()[-1] == (
        f"error: {run}: not written to mlflow, or not all; see above, and try again"
    )
    assert not (run / "tracking").exists()
