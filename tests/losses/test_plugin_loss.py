"""A loss of a user's own: one class, which the config reads by its kind, and training learns from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

import corank
from corank.batches.batch import Batch
from corank.batches.sampling import Population
from corank.features.input_layout import Layout
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.padded import PaddedLists
from corank.models.settings.stage import STAGE_MODELS
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.two_tower import Towers
from corank.testing.parts import registered
from corank.testing.worlds import trained_run
from corank.training import train
from corank.training.callbacks import TrainingLog
from corank.training.checkpoints.checkpoint_files import load
from corank.training.run import Run
from tests.support.configs import refused
from tests.support.interruptions import Interrupting, interrupt, same
from tests.support.shared import small_world
from tests.support.simulated_runs import Silent


class MarginLoss(Loss):
    """A positive must lead the negatives of its request by a margin that is learnt, and by what the network gives."""

    kind: Literal["margin"]
    stage: str
    positive: list[str] = Field(min_length=1)
    scale: NonNegativeFloat = 1.0
    extras: ClassVar[Sequence[str]] = ("offset",)

    @property
    def name(self) -> str:
        return f"{self.stage}.margin"

    @property
    def learner(self) -> str:
        return self.stage

    def parameters(self, funnel: FunnelSpec) -> Sequence[str]:
        return [self.stage]

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, "click", f"{key}.stage")
        for level in self.positive:
            funnel.logged_code(level, f"{key}.positive")

    def population(self, funnel: FunnelSpec) -> Population:
        return dict.fromkeys(range(len(funnel.levels)))

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        output = outputs[self.stage]
        margin = self.scale * output.loss_parameters[self.name].exp()
        positive = batch.in_population({funnel.levels.index(level): None for level in self.positive})
        negatives = PaddedLists.of(batch, batch.in_population(self.population(funnel)) & ~positive)
        z = output.logits["click"] + output.extras["offset"]
        rest = negatives(z, -1e30).logsumexp(1).index_select(0, batch.request_of)
        own = z - margin
        return torch.logaddexp(own, rest) - own + margin.square(), batch.weight * positive


class OffsetSettings(TowersSettings):
    """Towers that give their loss a number."""

    model: Literal["offset"]  # type: ignore[assignment]

    @property
    def extras(self) -> tuple[str, ...]:
        return ("offset",)

    def build(self, layout: Layout) -> Towers:
        return Offset(self, layout)


class Offset(Towers):
    def forward(self, inputs: StageInputs) -> StageOutput:
        output = super().forward(inputs)
        return replace(output, extras={"offset": torch.full((), 0.5)}) if self.training else output


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """The loss and the stage model, for one test."""
    with registered(LOSSES, margin=MarginLoss), registered(STAGE_MODELS, offset=OffsetSettings):
        yield


STAGE = "stages.0={name: prerank, model: offset, keep: 6, cuts: [preranked]}"
OVERRIDES = [
    "train.requests=24",
    "train.epochs=1",
    "train.checkpoint_every=2",
    "train.average=0.9",
    STAGE,
    "losses=[{kind: click, stage: rank}, {kind: margin, stage: prerank, positive: [exposed], scale: 0.5}]",
]


class Keeping(Silent):
    """Keeps the numbers that losses learn."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: list[dict[str, float]] = []

    def on_log(self, event: TrainingLog) -> None:
        super().on_log(event)
        self.parameters.append(dict(event.loss_parameters))
        assert {f"loss_parameter/{name}" for name in event.loss_parameters} <= event.figures.keys()


@pytest.mark.slow
def test_a_loss_learns_a_number_of_its_own_and_reads_what_a_network_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "LOG_EVERY", 2)
    config, callback = small_world() / "config.yaml", Keeping()
    whole = corank.train(config, OVERRIDES, folder=tmp_path / "whole", callbacks=[callback]).run
    assert Run.open(whole.folder).config.losses[1] == MarginLoss(
        kind="margin", stage="prerank", positive=["exposed"], scale=0.5
    )
    assert callback.losses[0].keys() == {"rank.click", "prerank.margin"}
    numbers = [parameters["prerank.margin/prerank"] for parameters in callback.parameters]
    assert numbers[-1] < numbers[0] < 0, "a smaller margin is cheaper"
    interrupt(Interrupting(len(numbers) // 2), config, OVERRIDES, folder=tmp_path / "broken")
    resumed = trained_run(config, tmp_path / "broken", *OVERRIDES, resume=True)
    assert same(resumed, whole) and same(resumed, whole, "latest")
    # a run that continues from it has the number and its moments, by the name of the loss
    again = trained_run(config, tmp_path / "again", *OVERRIDES, "train.epochs=0", continue_from=whole.folder)
    ours, theirs = (load(run.folder / "latest").tensors for run in (again, whole))
    name = "model.stages.prerank.loss_parameter.0"
    assert torch.equal(ours[name], theirs[name]) and ours[name] != 0
    moments = {n for n, tensor in theirs.items() if n.startswith("optimiser.prerank.") and tensor.dim() == 0}
    assert any(n.endswith("exp_avg") for n in moments)
    assert all(torch.equal(ours[n], theirs[n]) for n in moments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "losses.1.kind=margn",
            "losses.1: unknown kind 'margn'; did you mean 'margin'?; if a plug-in has it",
        ),
        (
            "losses.1.stage=rank",
            "losses.1: 'margin' reads 'offset' of 'rank', whose network does not give it",
        ),
        ("losses.1={kind: click, stage: prerank}", "stages.prerank: no loss reads its 'offset'; add one"),
        (
            "losses.2={kind: margin, stage: prerank, positive: [ranked]}",
            "losses.2: an earlier 'prerank.margin' learns",
        ),
    ],
)
def test_its_settings_are_validated_as_those_of_any_other(override: str, message: str) -> None:
    assert message in refused(small_world() / "config.yaml", *OVERRIDES, override)
