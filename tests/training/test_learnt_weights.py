"""Losses that learn the weights of their parts: the weights are trained, reported, checkpointed and carried over."""

from pathlib import Path

import pytest
import torch

import corank
from corank.training import train
from corank.training.callbacks import TrainingLog
from corank.training.checkpoints.checkpoint import load
from tests.support.interruptions import Interrupting, StoppedError, same
from tests.support.shared import small_world
from tests.support.simulated_runs import Silent, trained_run

pytestmark = pytest.mark.slow

OVERRIDES = [
    "train.requests=24",
    "train.epochs=1",
    "train.checkpoint_every=2",
    "train.average=0.9",
    "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}, "
    "{kind: cascade, form: arf_v2, positive: [exposed], weights: learnt}]",
]
WEIGHTS = {"cascade.arf_v2/prerank", "cascade.arf_v2/rank"}


class Told(Silent):
    """A callback that keeps the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, float]] = []

    def on_log(self, event: TrainingLog) -> None:
        super().on_log(event)
        self.weights.append(dict(event.loss_weights))
        assert {f"loss_weight/{name}" for name in event.loss_weights} <= event.figures.keys()


def test_learnt_weights_are_told_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LOG_EVERY", 2)
    config, callback = small_world() / "config.yaml", Told()
    whole = corank.train(config, OVERRIDES, folder=tmp_path / "whole", callbacks=[callback]).run
    assert all(weights.keys() == WEIGHTS for weights in callback.weights)
    first, last = callback.weights[0], callback.weights[-1]
    assert all(abs(first[name] - 0.5) < abs(last[name] - 0.5) for name in WEIGHTS)
    with pytest.raises(StoppedError):
        stop = Interrupting(len(callback.weights) // 2)
        corank.train(config, OVERRIDES, folder=tmp_path / "broken", callbacks=[stop])
    resumed = trained_run(config, tmp_path / "broken", *OVERRIDES, resume=True)
    assert same(resumed, whole) and same(resumed, whole, "latest")
    # a run that continues from it has its weights and their moments, by the name of the loss
    other = OVERRIDES[-1].replace(
        "losses=[", "losses=[{kind: cascade, form: lcron, positive: [exposed], weights: learnt}, "
    )
    again = trained_run(
        config, tmp_path / "again", *OVERRIDES[:-1], "train.epochs=0", other, continue_from=whole.folder
    )
    ours, theirs = (load(run.folder / "latest.safetensors").tensors for run in (again, whole))
    click_variance, new = (ours[f"model.stages.rank.log_variance.{n}"] for n in (1, 0))
    assert (
        torch.equal(click_variance, theirs["model.stages.rank.log_variance.0"])
        and click_variance != 0
        and new == 0
    )
    moments = {
        name for name, tensor in theirs.items() if name.startswith("optimiser.rank.") and tensor.dim() == 0
    }
    assert any(name.endswith("exp_avg") for name in moments)
