"""Trainings written to SwanLab, offline, and read back from its files."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import corank
from corank.training.tracking.swanlab import SwanlabCallback
from tests.support.simulated_runs import Silent
from tests.support.waiting import PATIENCE

pytest.importorskip("swanlab")

SMALL = ("train.requests=24", "train.epochs=2")


@pytest.fixture(autouse=True)
def bare_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let SwanLab look at neither the machine nor the user's settings."""
    for name in ("HARDWARE", "RUNTIME", "REQUIREMENTS", "GIT", "MONITOR"):
        monkeypatch.setenv(f"SWANLAB_PROBE_{name}", "false")
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)


def records(folder: Path) -> list[Any]:
    """The records of a run's folder."""
    (file,) = folder.glob("*.swanlab")
    reader = import_module("swanlab.sdk.internal.core_python.store").DataStoreReader()
    reader.open(file)
    record = import_module("swanlab.proto.swanlab.record.v1.record_pb2").Record
    found = [record.FromString(data) for data in reader]
    reader.close()
    return found


def scalars(written: list[Any]) -> dict[str, dict[int, float]]:
    """The figures of a run by name and step."""
    figures: dict[str, dict[int, float]] = {}
    for record in written:
        if record.WhichOneof("record_type") == "scalar":
            figures.setdefault(record.scalar.key, {})[record.scalar.step] = record.scalar.value.number
    return figures


@pytest.mark.slow
def test_a_training_is_written_offline(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard, logs = Silent(), tmp_path / "logs"
    callback = SwanlabCallback(project="shop", name="first", mode="offline", folder=logs, wait_s=PATIENCE)
    done = corank.train(world / "config.yaml", SMALL, [callback, heard], folder=tmp_path / "run")
    assert capsys.readouterr().out == ""
    (folder,) = logs.glob("run-*")
    written = records(folder)
    (start,) = (record.start for record in written if record.WhichOneof("record_type") == "start")
    assert (start.project, start.name) == ("shop", "first")
    config = {
        key: entry["value"]
        for key, entry in yaml.safe_load((folder / "files/config.yaml").read_text()).items()
    }
    assert config["train.epochs"] == 2 and config["stages.0.name"] == "prerank"
    assert config["kept/epoch"] == done.epoch
    figures = scalars(written)
    losses = list(figures["loss/rank.click"].values())
    assert losses == pytest.approx([terms["rank.click"] for terms in heard.losses])
    assert all(value > 0 for value in figures["candidates_per_second"].values())
    learnt = list(figures["valid/rank.click.auc"].values())
    assert learnt == pytest.approx([f["rank.click.auc"] for f in heard.figures])
    assert list(figures["epoch"].values()) == [1, 2]
    assert [record.WhichOneof("record_type") for record in written].count("finish") == 1


def test_a_run_is_gone_on_with_and_takes_files_and_states(tmp_path: Path) -> None:
    page, states = tmp_path / "report[1].html", ("failed", "stopped", "finished")
    page.write_text("figures")
    known: dict[str, str] = {}
    for state in states:
        tracker = SwanlabCallback(mode="offline", folder=tmp_path / state)
        known = {**tracker.open_run("shop", {"train.seed": 1}, known)}
        tracker.write_figures({"loss": 0.5}, 20)
        tracker.write_facts({"model_version": "old"})
        tracker.write_facts({"model_version": "new"})
        tracker.write_file(page)
        tracker.close_run(state)  # type: ignore[arg-type]
    ends = []
    for state in states:
        (folder,) = (tmp_path / state).glob("run-*")
        assert folder.name.endswith(known["run"])
        assert (folder / "files" / page.name).read_text() == "figures"
        config = yaml.safe_load((folder / "files/config.yaml").read_text())
        assert config["model_version"]["value"] == "new"
        written = records(folder)
        assert scalars(written) == {"loss": {20: 0.5}}
        (start,) = (record.start for record in written if record.WhichOneof("record_type") == "start")
        assert (start.project, start.name) == ("corank", "shop")
        ends += [record.finish.state for record in written if record.WhichOneof("record_type") == "finish"]
    assert len({*ends}) == 3


def test_nobody_is_asked_for_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = SwanlabCallback(mode="online", folder=tmp_path / "logs", wait_s=PATIENCE)
    tracker.begin(tmp_path / "run", {})
    assert tracker.end("finished") == 2
    assert "swanlab: cannot be written to: no API key: call `swanlab login`" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()
