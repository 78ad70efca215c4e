"""Training: it learns, the same seed gives the same weights, and an interrupted run ends as an unbroken one."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import corank
from corank.core.errors import CorankError
from corank.testing.worlds import trained_run
from corank.training import train
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.manifest import exists
from corank.training.config.config_file import read
from corank.training.run import Run
from tests.support import kills
from tests.support.interruptions import Interrupting, interrupt, same
from tests.support.simulated_runs import Silent

pytestmark = pytest.mark.slow

LOG_EVERY = 4
SMALL = ("train.requests=24", "train.epochs=2")
HARD = (
    "stages.0.dropout=0.2",
    "stages.1.dropout=0.3",
    "stages.1.normalisation=layer",
    "train.checkpoint_every=3",
)
"""What a resumed run must get right beyond the weights: drawn masks, and a checkpoint out of step with the log."""


@pytest.fixture(autouse=True)
def logged_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callbacks that interrupt a training are called at every log."""
    monkeypatch.setattr(train, "LOG_EVERY", LOG_EVERY)


def scalars(run: Run) -> dict[str, list[tuple[int, float | None]]]:
    """(step, value) by tag, as TensorBoard shows them; None for NaN, which a figure without a value is."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "events"))
    events.Reload()
    return {
        tag: [(e.step, None if math.isnan(e.value) else e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_the_same_seed_gives_the_same_weights_and_another_does_not(small_world: Path, tmp_path: Path) -> None:
    config = small_world / "config.yaml"
    one, two = (trained_run(config, tmp_path / name, *SMALL, *HARD) for name in ("one", "two"))
    other = trained_run(config, tmp_path / "other", *SMALL, *HARD, "train.seed=1")
    assert same(one, two) and same(one, two, "latest")
    assert not same(one, other)
    ours, theirs = (load(run.folder / "model").tensors for run in (one, other))
    assert not torch.equal(ours["stages.rank.first.weight"], theirs["stages.rank.first.weight"])


@pytest.mark.parametrize(("table", "average"), [("rowwise_adagrad", None), ("lazy_adam", 0.95)])
def test_an_interrupted_run_ends_as_an_unbroken_one(
    small_world: Path, tmp_path: Path, table: str, average: float | None
) -> None:
    config = small_world / "config.yaml"
    overrides = [*SMALL, *HARD, f"train.table.optimiser={table}", "train.table.lr=0.02", "train.epochs=3"]
    overrides += [f"train.average={average}"] if average else []
    overrides += ["train.early_stop.metric=rank.click.logloss", "train.early_stop.patience=2"]
    unbroken = trained_run(config, tmp_path / "unbroken", *overrides)
    steps = load(unbroken.latest).facts["progress"]["step"]
    folder = tmp_path / "broken"
    calls = steps // LOG_EVERY
    for n, interruption in enumerate(sorted(random.Random(str(overrides)).sample(range(1, calls), 2))):
        interrupt(Interrupting(interruption if n == 0 else 1), config, overrides, resume=n > 0, folder=folder)
        assert load(folder / "latest").facts["progress"]["step"] < steps
        assert not exists(folder / "model")
    resumed = trained_run(config, folder, *overrides, resume=True)
    assert same(resumed, unbroken) and same(resumed, unbroken, "latest") and same(resumed, unbroken, "best")


def test_the_first_steps_are_no_reason_to_stop(small_world: Path, tmp_path: Path) -> None:
    """But for those of a run that weights were taken over from. Nothing is learnt here: no epoch is better."""
    config, still = small_world / "config.yaml", "{lr: 1.0e-30}"
    overrides = ["train.requests=24", "train.epochs=20", "train.precision=fp32", f"train.table={still}"]
    overrides += [f"train.{stage}={still}" for stage in ("rank", "prerank")]
    overrides += ["train.early_stop={metric: rank.click.auc, patience: 1}"]
    first = corank.train(config, overrides, folder=tmp_path / "first")
    steps = load(first.run.latest).facts["progress"]["step"]
    an_epoch, kept = steps // len(first.history), first.epoch
    assert first.lines == [f"kept epoch {kept}, the best by rank.click.auc; run: {tmp_path / 'first'}"]
    assert (kept - 1) * an_epoch < train.FIRST_STEPS <= kept * an_epoch
    assert steps - an_epoch < train.PATIENT_STEPS <= steps and an_epoch < train.FIRST_STEPS
    second = corank.train(config, overrides, folder=tmp_path / "second", continue_from=tmp_path / "first")
    assert second.epoch == 1 and len(second.history) == 2


def _train_alone(config: Path, folder: Path, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    trained_run(config, folder, *overrides)


def test_a_killed_run_ends_as_an_unbroken_one(small_world: Path, tmp_path: Path) -> None:
    config, folder = small_world / "config.yaml", tmp_path / "killed"
    overrides = [*SMALL, *HARD, "train.average=0.9", "train.epochs=3"]
    # of some 280 changes of files the first 30 begin the run and write its first checkpoint
    kills.kill_at(random.randint(40, 200), _train_alone, config, folder, overrides)
    assert not exists(folder / "model")
    assert load(folder / "latest").facts["progress"]["step"] > 0
    resumed = trained_run(config, folder, *overrides, resume=True)
    assert same(resumed, trained_run(config, tmp_path / "unbroken", *overrides))
    left = {path.name for path in folder.iterdir()}
    assert left == {"run.json", "events", "latest", "best", "model"}
    assert len([*folder.glob("*/*/*.safetensors")]) == 3


def test_a_loss_that_becomes_nan_is_named(small_world: Path, tmp_path: Path) -> None:
    with pytest.raises(CorankError, match=r"loss rank\.click became NaN by step \d+; lower train\.table\.lr"):
        trained_run(
            small_world / "config.yaml", tmp_path, *SMALL, "train.table.lr=1e30", "train.precision=fp32"
        )


def test_every_loss_is_reported_and_resuming_the_finished_run_changes_nothing(
    small_world: Path, tmp_path: Path
) -> None:
    config, callback = small_world / "config.yaml", Silent()
    kept = corank.train(config, SMALL, folder=tmp_path, callbacks=[callback])
    assert kept.lines == [f"kept epoch 2, the last; run: {tmp_path}"]
    assert_reported(config, kept.run, callback)
    before = {path: path.read_bytes() for path in tmp_path.glob("[blm]*/**/*.*")}
    callback = Silent()
    again = corank.train(config, SMALL, resume=True, folder=tmp_path, callbacks=[callback])
    assert (again.epoch, again.metrics) == (kept.epoch, kept.metrics)
    assert callback.losses == [] and callback.figures == []
    assert {path: path.read_bytes() for path in tmp_path.glob("[blm]*/**/*.*")} == before


def assert_reported(config: Path, run: Run, callback: Silent) -> None:
    """Fail unless callbacks and TensorBoard have the same losses and figures."""
    names = [name for name, _ in read(config).total.select(None)]
    assert names == ["rank.click", "prerank.click", "prerank.unexposed", "prerank.in_batch"]
    assert callback.losses and all(list(losses) == names for losses in callback.losses)
    series = scalars(run)
    for name in names:
        steps, values = zip(*series[f"loss/{name}"], strict=True)
        assert list(steps) == sorted(set(steps)) and steps[-1] == load(run.latest).facts["progress"]["step"]
        assert values == pytest.approx([losses[name] for losses in callback.losses], rel=1e-6)
    for metric, value in callback.figures[-1].items():
        expected = None if value is None else pytest.approx(value, rel=1e-6)
        assert series[f"valid/{metric}"][-1][1] == expected
    assert len(series["valid/rank.click.auc"]) == 2
    assert all(value is not None and value > 0 for _, value in series["candidates_per_second"])


@pytest.mark.precision
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_losses_and_beats_chance(
    world: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    callback = Silent()
    overrides = ["train.epochs=6", "train.requests=64", f"train.precision={precision}", "train.rank.lr=0.003"]
    run = corank.train(world / "config.yaml", overrides, folder=tmp_path, callbacks=[callback]).run
    for loss in ("rank.click", "prerank.unexposed"):
        values = [losses[loss] for losses in callback.losses]
        # of several batches, since one of 64 requests shows little
        assert np.mean(values[-20:]) < np.mean(values[:5]) - 0.1, loss
    found = corank.evaluate(run.folder)
    for stage in ("prerank", "rank"):
        auc = found.row(f"{stage}.exposed.click.auc")
        assert 0.52 < auc["low"] < auc["value"] < auc["high"], auc
    assert found.row("prerank.candidates.click.cut_auc")["value"] > 0.6
    recall = found.row("prerank.cut.truth_recall@6@18")
    assert recall["value"] > recall["random"] + 0.1


def test_calibrators_are_fitted_on_exposed_validation_rows(trained: Run) -> None:
    """So Σ p = Σ y there: a PCOC of 1, which the raw scores are far from."""
    found, other = (corank.evaluate(trained.folder, split) for split in ("valid", "test"))
    for stage in ("prerank", "rank"):
        names = ("pcoc_calibrated", "pcoc", "logloss_calibrated", "logloss")
        calibrated, raw, loss, raw_loss = (
            found.row(f"{stage}.exposed.click.{name}")["value"] for name in names
        )
        assert calibrated == pytest.approx(1, abs=1e-4) and abs(raw - 1) > 0.01 and loss < raw_loss
    assert abs(other.row("rank.exposed.click.pcoc_calibrated")["value"] - 1) > 0.01
