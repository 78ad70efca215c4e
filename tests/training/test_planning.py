"""What a config leaves to the log: `auto` in `train`, and a split by shares as moments."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml

import corank
from corank.core.errors import DataError
from corank.features.split import TimeSplit
from corank.testing.worlds import trained_run
from corank.training.config.config import plan_training
from corank.training.config.config_file import read
from corank.training.config.settings import EarlyStop
from corank.training.run import Run
from tests.support.boosted_runs import GROWN
from tests.support.configs import ID, of_side, shop, small_config
from tests.support.shared import small_world

AUTO = ("train.epochs=auto", "train.requests=auto")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shop(tmp_path)


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


def numbers(folder: Path) -> tuple[int, int]:
    """Epochs and requests a batch in a run's file."""
    train = json.loads((folder / "run.json").read_text())["config"]["train"]
    return train["epochs"], train["requests"]


class Interrupt(corank.Callback):
    """Ends a training after its second epoch."""

    def on_checkpoint(self, event: Any) -> None:
        if event.epochs_done == 2:
            raise KeyboardInterrupt


@pytest.mark.thorough
def test_trees_have_no_voice_in_which_epoch_is_kept(tmp_path: Path) -> None:
    changes = [*GROWN[:2], "train.epochs=auto", "train.requests=2", "train.precision=fp32"]
    result = corank.train(small_world() / "config.yaml", changes, folder=tmp_path / "run")
    ranker, curve = (
        [float(figures[f"{stage}.click.auc"] or 0) for figures in result.history]
        for stage in ("rank", "prerank")
    )
    assert len({*ranker}) == 1 and result.epoch == 1 + curve.index(max(curve)) > 1


@pytest.mark.slow
def test_check_train_and_resume_agree(tmp_path: Path) -> None:
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


SHARES = "data.split={valid: 0.1, test: 0.2}"


def write_log(folder: Path, lists: bool) -> dict[str, Any]:
    """A log of 40 requests, two at a time, of three candidates each; the first candidate is clicked."""
    rows = pl.DataFrame({"request": [f"r{n}" for n in range(40)], "user": [n % 7 for n in range(40)]})
    rows = rows.with_columns(
        time=pl.Series([n // 2 * 60_000 for n in range(40)]).cast(pl.Datetime("ms")),
        item=pl.Series([[n % 5, 5, 6] for n in range(40)]),
        click=pl.Series([[1, 0, 0]] * 40),
    ).sample(fraction=1.0, shuffle=True, seed=0)
    log: Any = {"files": "log.parquet", "list": "item", "along": ["click"]} if lists else "log.parquet"
    (rows if lists else rows.explode("item", "click")).write_parquet(folder / "log.parquet")
    features = of_side("user", ID, "user") | of_side("item", ID, "item")
    return small_config(features, {"log": log, "split": {"valid": 0.1, "test": 0.2}}, train={})


@pytest.mark.parametrize("lists", [False, True])
def test_whole_requests_are_counted_of_rows_and_of_lists(tmp_path: Path, lists: bool) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(write_log(tmp_path, lists)))
    check = corank.check(config)
    assert check.splits == {"train": 28 * 3, "valid": 4 * 3, "test": 8 * 3}
    assert check.config.data.split == TimeSplit(
        valid=datetime(1970, 1, 1, 0, 14, tzinfo=UTC), test=datetime(1970, 1, 1, 0, 16, tzinfo=UTC)
    )


def test_a_log_of_one_time_is_refused_before_anything_is_packed(tmp_path: Path) -> None:
    values = write_log(tmp_path, lists=False)
    log = pl.read_parquet(tmp_path / "log.parquet").with_columns(time=pl.lit(datetime(2026, 4, 1)))
    log.write_parquet(tmp_path / "log.parquet")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(DataError, match=r"40 requests of the log .* times, too few to split them by shares"):
        corank.train(config)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "log.parquet"}


@pytest.mark.slow
def test_packing_training_and_all_that_follows_agree(tmp_path: Path) -> None:
    """Packed once: training, resuming, judging, continuing and exporting open the same data by the same moments."""
    config, packed = small_world() / "config.yaml", tmp_path / "packed"
    changes = [SHARES, f"packed={packed}", "train.epochs=1"]
    manifest = corank.pack(config, changes).packed.manifest
    assert isinstance(manifest.data.split, TimeSplit)
    before = (packed / "manifest.json").stat().st_mtime_ns
    run = trained_run(config, tmp_path / "run", *changes)
    assert run.config.data == manifest.data == Run.open(tmp_path / "run").config.data
    assert corank.train(config, changes, resume=True, folder=tmp_path / "run").run.config == run.config
    assert corank.evaluate(tmp_path / "run")["run"]["split"] == "test"
    corank.export(tmp_path / "run", tmp_path / "bundle")
    assert (packed / "manifest.json").stat().st_mtime_ns == before
    later = [*changes, "data.split={valid: 0.05, test: 0.05}"]
    successor = corank.pack(config, later, continue_from=tmp_path / "run").packed.manifest
    assert successor.continued is not None and successor.data.training_end() > manifest.data.training_end()
    going_on = corank.train(config, later, folder=tmp_path / "next", continue_from=tmp_path / "run")
    assert going_on.run.config.data.training_end() == successor.data.training_end()
