"""`auto` in `train`: batches and epochs by the number of training requests, stated by the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import corank
from corank.core.errors import ConfigError
from corank.training.config.config import plan_training
from corank.training.config.config_file import plain, read
from corank.training.config.settings import EarlyStop
from corank.training.run import Run
from tests.support.configs import TEXT
from tests.support.shared import small_world

AUTO = ("train.epochs=auto", "train.requests=auto")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("requests", "planned"),
    [
        (0, (20, 16)),
        (300, (20, 16)),
        (10_000, (2, 32)),
        (60_000, (3, 256)),
        (10**6, (2, 256)),
        (10**7, (1, 256)),
    ],
)
def test_batches_and_epochs_follow_the_requests(path: Path, requests: int, planned: tuple[int, int]) -> None:
    train = plan_training(read(path, AUTO), requests).train
    assert (train.epochs_of(None), train.batch_size) == planned
    assert train.early_stop == EarlyStop(metric="rank.click.auc", patience=2)


def test_each_number_that_is_given_stays(path: Path) -> None:
    def planned(*overrides: str) -> tuple[Any, ...]:
        train = plan_training(read(path, overrides), 6400).train
        return train.epochs, train.requests, train.early_stop

    stop = EarlyStop(metric="rank.click.auc", patience=2)
    assert planned() == (2, 256, None)
    assert planned("train.epochs=auto") == (20, 256, stop)  # 25 steps an epoch
    assert planned("train.epochs=auto", "train.requests=64") == (6, 64, stop)
    assert planned("train.requests=auto") == (2, 32, None)
    early_stop = "train.early_stop={metric: prerank.click.logloss, patience: 1}"
    assert planned(*AUTO, early_stop)[2] == EarlyStop(metric="prerank.click.logloss")
    assert planned(*AUTO, "data.split={train: ..2026-04-30}")[2] is None
    separate = ("train.mode=separate", "losses.2={kind: click, stage: prerank}", "stages.0.embeddings=own")
    assert planned(*AUTO, *separate, "stages.1.embeddings=own")[2] is None


def test_auto_is_written_and_read_and_is_no_number(path: Path) -> None:
    config = read(path, AUTO)
    assert (plain(config)["train"]["epochs"], plain(config)["train"]["requests"]) == ("auto", "auto")
    assert type(config).model_validate(plain(config)) == config
    reason = "auto is no number before the training requests are counted"
    with pytest.raises(ConfigError, match=f"train.requests: {reason}"):
        _ = config.train.batch_size
    with pytest.raises(ConfigError, match=f"train.epochs: {reason}"):
        config.train.epochs_of("rank")


def numbers(folder: Path) -> tuple[int, int]:
    """Epochs and requests a batch in a run's file."""
    train = json.loads((folder / "run.json").read_text())["config"]["train"]
    return train["epochs"], train["requests"]


class Interrupt(corank.Callback):
    """Ends a training after its second epoch."""

    def on_checkpoint(self, event: Any) -> None:
        if event.epochs_done == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_check_train_resume_and_workers_agree(tmp_path: Path) -> None:
    config = small_world() / "config.yaml"
    changes = [*AUTO, "train.early_stop={metric: rank.click.auc, patience: 20}", "train.precision=fp32"]
    planned = corank.check(config, changes).config.train
    assert (planned.epochs, planned.requests) == (20, 16)
    changes += ["train.checkpoint_every=5"]
    few = [*changes, "train.requests=128"]  # the same 20 epochs, in a quarter of the time
    whole = corank.train(config, few, folder=tmp_path / "whole").run
    assert numbers(tmp_path / "whole") == (20, 128)
    with pytest.raises(KeyboardInterrupt):
        corank.train(config, few, folder=tmp_path / "broken", callbacks=[Interrupt()])
    resumed = corank.train(config, few, folder=tmp_path / "broken", resume=True).run
    assert resumed.config == whole.config
    models = [run.model(run.packed())[0].state_dict() for run in (whole, resumed)]
    assert all(torch.equal(t, models[1][name]) for name, t in models[0].items())
    two = [*changes, "train.epochs=1"]
    assert corank.train(config, two, folder=tmp_path / "two", workers=2).run.config.train.requests == 16
    assert numbers(tmp_path / "two") == (1, 16)


@pytest.mark.slow
@pytest.mark.thorough  # Optuna
def test_searches_train_by_planned_numbers(tmp_path: Path) -> None:
    config = small_world() / "config.yaml"
    changes = ["train.epochs=auto", "train.requests=512", "data.split={valid: 0.3, test: 0.3}"]
    changes += [f"packed={tmp_path / 'packed'}"]
    own = tmp_path / "own"
    own.mkdir()
    file = own / "config.yaml"
    file.write_text(corank.config.to_yaml(corank.config.read_config(config, _located(config, changes))))
    document = corank.sweep(file, {"train.rank.lr": [0.002]}, tmp_path / "sweep", seeds=1)
    run = Run.open(tmp_path / "sweep" / "run")
    assert run.config.train.epochs == 20 and document["trials"] == 2
    assert document["config"]["data"]["split"].keys() == {"valid", "test"}
    assert isinstance(document["config"]["data"]["split"]["valid"], str)
    tuned = corank.tune(file, 2, search=["train.rank.lr=0.001..0.01 log"], out=tmp_path / "tuning")
    assert len(tuned["trials"]) == 2
    assert Run.open(tmp_path / "tuning" / "run").config.data == run.config.data


def _located(config: Path, changes: list[str]) -> list[str]:
    """Changes, and the tables of a config where they lie."""
    world = config.parent
    tables = {"log": "log/*.parquet", "items": "items.parquet", "users": "users.parquet"}
    tables |= {"truth": "truth/*.parquet"}
    return [*changes, *(f"data.{name}={world / path}" for name, path in tables.items())]
