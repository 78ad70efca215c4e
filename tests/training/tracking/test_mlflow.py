"""Trainings written to MLflow, in a database and at a server that is down."""

import json
from pathlib import Path
from typing import Any

import pytest

import corank
from corank.training.tracking.mlflow import MlflowCallback
from corank_continual.periods.history import PeriodRecord
from corank_continual.periods.settings import DailySettings
from corank_continual.periods.tracking import DailyTracking
from tests.support.interruptions import Interrupting, interrupt
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own, of SQLAlchemy and pydantic
]

DAY = 86_400_000
SMALL = ("train.requests=24", "train.epochs=2", "train.checkpoint_every=15")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of an empty database, whose tables MLflow makes at first use."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def tracked_run(database: str, folder: Path) -> tuple[Any, Any]:
    """A client, and MLflow's run of a run's folder."""
    import mlflow

    client = mlflow.MlflowClient(database)
    known = json.loads((folder / "tracking" / "mlflow.json").read_text())
    return client, client.get_run(known["run"])


def test_a_resumed_training_is_one_run_without_repeated_steps(
    world: Path, tmp_path: Path, database: str
) -> None:
    callback = MlflowCallback(uri=database, experiment="shop", name="first", wait_s=PATIENCE)
    stop = Interrupting(3)
    interrupt(stop, world / "config.yaml", SMALL, callbacks=[callback], folder=tmp_path)
    assert tracked_run(database, tmp_path)[1].info.status == "FAILED"
    logged = Interrupting(1000)
    done = corank.train(world / "config.yaml", SMALL, [callback, logged], folder=tmp_path, resume=True)
    client, run = tracked_run(database, tmp_path)
    experiment = client.get_experiment_by_name("shop")
    assert [r.info.run_id for r in client.search_runs([experiment.experiment_id])] == [run.info.run_id]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params["train.epochs"] == "2" and run.data.params["stages.0.name"] == "prerank"
    history = client.get_metric_history(run.info.run_id, "loss/rank.click")
    steps = [metric.step for metric in history]
    assert steps == [20, 40, 60, 80], "60 was logged by both"
    assert history[-1].value == pytest.approx(logged.losses[-1]["rank.click"])
    valid = client.get_metric_history(run.info.run_id, "valid/rank.click.auc")
    assert [metric.value for metric in valid] == [f["rank.click.auc"] for f in stop.figures + logged.figures]
    assert run.data.metrics["kept/epoch"] == done.epoch
    assert run.data.metrics["kept/rank.click.auc"] == done.metrics["rank.click.auc"]


def test_a_server_that_is_down_ends_no_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    callback = MlflowCallback(uri=f"http://127.0.0.1:{free_port()}")
    done = corank.train(world / "config.yaml", SMALL, [callback], folder=tmp_path)
    assert done.epoch and done.run.finished
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mlflow: ")]
    assert len(said) == 2 and "Max retries exceeded" in said[0]
    assert said[0].endswith("; going on, and trying again")
    assert said[1].endswith(" records were not written")


def test_periods_of_a_daily_funnel_are_written_once(tmp_path: Path, database: str) -> None:
    gate = ["rank.exposed.click.auc >= live"]
    options = {"config": "c.yaml", "first": "2026-04-25", "gate": gate}
    settings = DailySettings(**options, track=[f"mlflow,uri={database},experiment=daily,wait_s={PATIENCE}"])
    records = [
        PeriodRecord(
            period=f"2026-04-{25 + n}",
            begin=n * DAY,
            end=(n + 1) * DAY,
            decision="live",
            candidate={"rank.exposed.click.auc": 0.7 + n / 100, "rank.exposed.click.logloss": 1.0},
            drift={f"feature {k}": 0.1 for k in range(3)},
            seconds={"train": 2.0},
            model=f"m{n}",
        )
        for n in range(3)
    ]
    said: list[str] = []
    for known in (1, 3, 3):
        DailyTracking(tmp_path, settings, said.append).write(records[:known])
    (tmp_path / "tracking" / "periods.json").unlink()  # as if killed before it was written
    DailyTracking(tmp_path, settings, said.append).write(records)
    client, run = tracked_run(database, tmp_path)
    for name, values in {
        "candidate/rank.exposed.click.auc": [0.7, 0.71, 0.72],
        "decision/live": [1] * 3,
    }.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == [0, 1, 2]
        assert [metric.value for metric in history] == pytest.approx(values)
    assert "candidate/rank.exposed.click.logloss" not in run.data.metrics and said == []
    assert run.data.metrics["drift/feature 2"] == 0.1 and run.data.params["gate.0"] == gate[0]
    assert (run.data.tags["live"], run.data.tags["model_version"]) == ("2026-04-27", "m2")
