"""Training that continues a run equals one training over both days; with nothing to learn nothing changes."""

from pathlib import Path

import pytest
import torch

import corank
from corank.core.errors import CheckpointError, ConfigError
from corank.data.packed.dataset import PackedDataset
from corank.testing.worlds import trained_run
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.checkpoint_files import load
from corank.training.run import Run
from corank.training.trainer import Trainer
from tests.support.interruptions import Interrupting, interrupt, same
from tests.support.shared import shared, small_world
from tests.support.two_days import second_day

pytestmark = pytest.mark.slow

HARD = ["train.requests=24", "stages.0.dropout=0.2", "stages.1.dropout=0.3", "stages.1.normalisation=layer"]
CASES = {
    "joint": [
        "train.average=0.9",
        "train.epochs=2",
        "train.table.decay=0.99",
        "losses=[{kind: click, stage: rank}, {kind: distill, teacher: rank, student: prerank, on: [exposed, ranked]}, "
        "{kind: cascade, form: arf_v2, positive: [exposed]}]",
    ],
    "alternate": ["train.mode=alternate", "train.table={optimiser: lazy_adam, lr: 0.01}"],
    "separate": [
        "train.mode=separate",
        "train.average=0.95",
        "stages.0.embeddings=own",
        "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]",
    ],
}
"""Overrides by case."""


def first_day(case: str) -> Run:
    """A finished run over the first day, which tests read."""
    config, overrides = small_world() / "config.yaml", [*HARD, *CASES[case]]
    return Run.open(
        shared(f"first-{case}", lambda folder: trained_run(config, folder / "run", *overrides)) / "run"
    )


def require_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert one.names == other.names
    for name in one.names:
        assert torch.equal(one.whole(name), other.whole(name)), name


def train_epochs(trainer: Trainer) -> None:
    """All epochs of a config, as a training takes them."""
    trainer.progress.epoch = 0
    for _ in range(trainer.epochs):
        progress = trainer.progress
        for batch in trainer.reader.read_shuffled(progress.epochs_before + progress.epoch):
            trainer.step(batch)
        progress.epoch += 1
        trainer.take_average()
        trainer.shipped()  # as for validation


@pytest.mark.parametrize("case", CASES)
def test_two_days_in_turn_are_one_training_over_both(case: str, tmp_path: Path) -> None:
    config, overrides = small_world() / "config.yaml", [*HARD, *CASES[case]]
    first = first_day(case)
    second = trained_run(
        config, tmp_path / "second", *overrides, f"packed={second_day()}", continue_from=first.folder
    )
    unbroken = Trainer(Run(tmp_path / "unbroken", first.config, first.base), first.packed())
    train_epochs(unbroken)
    require_equal(load(first.latest), unbroken.state({}))
    unbroken.packed = PackedDataset.open(second_day())
    unbroken.progress.epochs_before = unbroken.epochs
    if unbroken.average is not None:
        unbroken.average.begun = 0  # what is taken over stands for all steps before
    train_epochs(unbroken)
    require_equal(load(second.latest), unbroken.state({}))
    assert load(second.latest).facts["progress"]["step"] == unbroken.progress.step
    assert second.origin is not None and second.origin.epochs == unbroken.epochs
    assert not same(first, second)


@pytest.mark.parametrize("case", CASES)
def test_nothing_to_learn_leaves_all_weights_and_states(case: str, tmp_path: Path) -> None:
    config, overrides = small_world() / "config.yaml", [*HARD, *CASES[case]]
    first = first_day(case)
    kept = trained_run(config, tmp_path / "kept", *overrides, "train.epochs=0", continue_from=first.folder)
    require_equal(load(kept.latest), load(first.latest))
    ours, theirs = (run.trained(first.packed() if run is first else run.packed()) for run in (kept, first))
    require_equal(ours, theirs)
    assert ours.facts["calibrators"] == theirs.facts["calibrators"]
    assert (
        corank.train(config, [*overrides, "train.epochs=0"], folder=tmp_path / "kept", resume=True).epoch == 0
    )
    of_kept, of_first = (
        corank.evaluate(run.folder, bootstrap=False).frame().drop("run") for run in (kept, first)
    )
    assert of_kept.equals(of_first)


def test_an_interrupted_training_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    config, overrides = (
        small_world() / "config.yaml",
        [*HARD, *CASES["joint"], "train.checkpoint_every=7"],
    )
    source = first_day("joint").folder
    overrides += [f"packed={second_day()}", "train.epochs=12"]
    unbroken = trained_run(config, tmp_path / "unbroken", *overrides, continue_from=source)
    broken = tmp_path / "broken"
    for calls in (1, 3):  # before the first checkpoint, and after it
        begun = source if calls == 1 else None
        interrupt(
            Interrupting(calls), config, overrides, folder=broken, resume=calls > 1, continue_from=begun
        )
    other = first_day("alternate").folder
    with pytest.raises(CheckpointError, match=r"its training began from .*run; received --from .*run: leave"):
        corank.train(config, overrides, folder=broken, resume=True, continue_from=other)
    resumed = trained_run(config, broken, *overrides, resume=True)
    assert same(resumed, unbroken) and same(resumed, unbroken, "latest")
    assert resumed.origin == unbroken.origin


def test_a_run_that_has_not_ended_or_is_the_same_is_refused(tmp_path: Path) -> None:
    config, folder = small_world() / "config.yaml", tmp_path / "run"
    interrupt(Interrupting(1), config, [*HARD, "train.epochs=30"], folder=folder)
    with pytest.raises(CheckpointError, match=r"run: training has not .* go on with `corank train --resume`"):
        corank.train(config, HARD, folder=tmp_path / "new", continue_from=folder)
    with pytest.raises(
        ConfigError, match=r"--from: .*run is the run itself; write the new one elsewhere by --run"
    ):
        corank.train(config, HARD, folder=folder, continue_from=folder, overwrite=True)
    with pytest.raises(CheckpointError, match="not a run"):
        corank.train(config, HARD, folder=tmp_path / "new", continue_from=tmp_path)
    with pytest.raises(
        ConfigError, match=r"train\.epochs: 0 trains nothing; write 1 or more, or .* --from RUN"
    ):
        corank.train(config, ["train.epochs=0"], folder=tmp_path / "new")
    assert not (tmp_path / "new" / "run.json").exists()
