"""Who learns in which step, from what, and whose tables change: joint, separate, alternate; own or shared tables."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import corank
from corank.testing.worlds import trained_run
from corank.training import train
from corank.training.callbacks import TrainingCheckpoint
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.manifest import exists
from corank.training.run import Run
from tests.support.interruptions import Interrupting, interrupt, same
from tests.support.simulated_runs import Silent

pytestmark = pytest.mark.slow

OWN = "stages.0.embeddings=own"
APART = ("train.mode=separate", OWN)
TAUGHT = "losses.3={kind: distill, teacher: rank, student: prerank, on: [exposed], warm_up: 4}"
EXPOSED = ("losses.2.weight=0", TAUGHT)
"""So that every mode reads the same candidates."""
SMALL = ("train.requests=24", "train.epochs=2")


@pytest.fixture(autouse=True)
def logged_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callbacks that interrupt a training are called at every log."""
    monkeypatch.setattr(train, "LOG_EVERY", 4)


def of(run: Run, *stages: str) -> dict[str, Tensor]:
    """The shipped tensors of stages' layers, and of tables, by their names' beginnings."""
    tensors = load(run.folder / "model").tensors
    return {n: t for n, t in tensors.items() if n.startswith(stages)}


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    assert ours.keys() == theirs.keys() and ours
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


RANKER = ("stages.rank.", "tables.shared.")


class Keeping(Silent):
    """Keeps the trained weights of every epoch's end."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.latest = folder / "latest"
        self.epochs: list[dict[str, Tensor]] = []

    def on_checkpoint(self, event: TrainingCheckpoint) -> None:
        if not event.batches_done:
            tensors = load(self.latest).tensors
            self.epochs.append(
                {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
            )


def parts(epochs: list[dict[str, Tensor]], *stages: str) -> Iterator[dict[str, Tensor]]:
    return ({n: t for n, t in tensors.items() if n.startswith(stages)} for tensors in epochs)


@pytest.mark.parametrize("average", [(), ("train.average=0.9",)])
def test_a_ranker_trained_first_is_the_ranker_trained_alone(
    small_world: Path, tmp_path: Path, average: tuple[str, ...]
) -> None:
    """With a pre-ranker of own tables the joint ranker learns from its own losses alone, too."""
    config = small_world / "config.yaml"
    apart = trained_run(config, tmp_path / "apart", *SMALL, *EXPOSED, *APART, *average)
    beside = trained_run(config, tmp_path / "beside", *SMALL, *EXPOSED, OWN, *average)
    assert equal(of(apart, *RANKER), of(beside, *RANKER))
    assert not equal(of(apart, "stages.prerank."), of(beside, "stages.prerank."))


@pytest.mark.parametrize("tables", [OWN, "stages.0.table_gradient=false"])
def test_each_stage_learns_in_its_own_epochs_alone(small_world: Path, tmp_path: Path, tables: str) -> None:
    callback = Keeping(tmp_path)
    overrides = [*SMALL, "train.mode=separate", tables, "train.average=0.9", "stages.1.dropout=0.2"]
    overrides += ["train.rank.weight_decay=0.1", "train.prerank.weight_decay=0.1"]
    done = corank.train(small_world / "config.yaml", overrides, folder=tmp_path, callbacks=[callback])
    run = done.run
    assert len(callback.epochs) == 4 and done.epoch == 4
    rank = list(parts(callback.epochs, *RANKER))
    prerank = list(parts(callback.epochs, "stages.prerank."))
    assert not equal(rank[0], rank[1])
    assert equal(rank[1], rank[2]) and equal(rank[2], rank[3])
    assert equal(rank[3], of(run, *RANKER)), "what is shipped is what taught"
    assert equal(prerank[0], prerank[1])
    assert not equal(prerank[1], prerank[2]) and not equal(prerank[2], prerank[3])
    # on screen: whose turn it is, by its losses and its figures
    assert {name for losses in callback.losses[:1] for name in losses} == {"rank.click"}
    assert list(callback.losses[-1]) == ["prerank.click", "prerank.unexposed", "prerank.in_batch"]
    shown = [{name.partition(".")[0] for name in figures} for figures in callback.figures]
    assert shown == [{"rank"}, {"rank"}, {"prerank"}, {"prerank"}]


@pytest.mark.parametrize("average", [None, 0.95])
@pytest.mark.parametrize("mode", ["separate", "alternate"])
def test_an_interrupted_run_ends_as_an_unbroken_one(
    small_world: Path, tmp_path: Path, mode: str, average: float | None
) -> None:
    """Broken in its first half, and again in its second: the phases of two stages, where they train apart."""
    config = small_world / "config.yaml"
    overrides = [f"train.mode={mode}", OWN, "train.requests=16", "train.epochs=2"]
    overrides += ["stages.0.dropout=0.2", "stages.1.dropout=0.3"]
    overrides += ["train.checkpoint_every=3", "losses.2.from=[batch, retrieved]", "losses.2.per_request=3"]
    overrides += [f"train.average={average}"] if average else []
    whole = Silent()
    unbroken = corank.train(config, overrides, folder=tmp_path / "unbroken", callbacks=[whole]).run
    half = len(whole.losses) // 2
    folder = tmp_path / "broken"
    # one callback's calls begin again at the checkpoint, a second's at its own
    for n, calls in enumerate((random.Random(mode).randrange(2, half), half)):
        interrupt(Interrupting(calls), config, overrides, resume=n > 0, folder=folder)
        assert not exists(folder / "model")
    if mode == "separate":
        assert load(folder / "latest").facts["progress"]["epoch"] >= 2
    resumed = trained_run(config, folder, *overrides, resume=True)
    assert same(resumed, unbroken) and same(resumed, unbroken, "latest")
