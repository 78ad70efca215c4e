"""Trainings written to W&B, offline, and read back from its file."""

from pathlib import Path

import pytest

import corank
from corank.training.tracking.wandb import WandbCallback
from tests.support.simulated_runs import Silent
from tests.support.waiting import PATIENCE
from tests.support.wandb_files import records, values

pytestmark = pytest.mark.slow

SMALL = ("train.requests=24", "train.epochs=2")


@pytest.fixture(autouse=True)
def patient_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let W&B's own process take its time to start."""
    for name in ("WANDB_X_SERVICE_WAIT", "WANDB_INIT_TIMEOUT"):
        monkeypatch.setenv(name, str(PATIENCE))


def test_a_training_is_written_offline(world: Path, tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    heard = Silent()
    callback = WandbCallback(project="shop", name="first", mode="offline", folder=tmp_path, wait_s=PATIENCE)
    done = corank.train(world / "config.yaml", SMALL, [callback, heard], folder=tmp_path / "run")
    written = records(tmp_path)
    (run,) = (record.run for record in written if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("shop", "first")
    config = values(run.config.update)
    assert config["train.epochs"] == 2 and config["stages.0.name"] == "prerank"
    rows = [
        values(record.history.item) for record in written if record.WhichOneof("record_type") == "history"
    ]
    losses = [row for row in rows if "loss/rank.click" in row]
    assert [row["loss/rank.click"] for row in losses] == [terms["rank.click"] for terms in heard.losses]
    assert all(row["candidates_per_second"] > 0 for row in losses)
    epochs = [row for row in rows if "epoch" in row]
    assert [row["valid/rank.click.auc"] for row in epochs] == [f["rank.click.auc"] for f in heard.figures]
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    summary: dict[str, object] = {}
    for record in written:
        summary |= values(record.summary.update)
    assert summary["kept/epoch"] == done.epoch
    assert [record.exit.exit_code for record in written if record.WhichOneof("record_type") == "exit"] == [0]
