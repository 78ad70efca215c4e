"""A loss of a user's own: one class, which the config reads by its kind, and training learns from."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

import corank
from corank.batches.batch import Batch
from corank.batches.sampling import Population
from corank.core.errors import ConfigError, PluginError
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.padded import PaddedLists
from corank.models.stage_io import StageOutput
from corank.training.run import Run
from tests.support.loss_cases import loss, outputs, requests
from tests.support.simulated_runs import Silent

NEVER = 1e30


class MarginInfoNceLoss(Loss):
    """A positive must lead the negatives of its request by a margin.

    L = mean over positives a of −log(e^{z_a − margin} / (e^{z_a − margin} + Σ_b e^{z_b})), b the request's candidates
    of other levels. Source of the form: van den Oord et al., Contrastive Predictive Coding, arXiv 1807.03748.
    """

    kind: Literal["margin_info_nce"]
    stage: str
    positive: list[str] = Field(min_length=1)
    margin: NonNegativeFloat = 0.0

    @property
    def name(self) -> str:
        return f"{self.stage}.margin_info_nce"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, "click", f"{key}.stage")
        for level in self.positive:
            funnel.logged_code(level, f"{key}.positive")

    def population(self, funnel: FunnelSpec) -> Population:
        return dict.fromkeys(range(len(funnel.levels)))

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        chosen = batch.in_population(self.population(funnel))
        positive = batch.in_population({funnel.levels.index(level): None for level in self.positive})
        negatives = PaddedLists.of(batch, chosen & ~positive)
        z = outputs[self.stage].logits["click"]
        rest = negatives(z, -NEVER).logsumexp(1).index_select(0, batch.request_of)
        own = z - self.margin
        values = torch.logaddexp(own, rest) - own
        return values, batch.weight * positive


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """The loss registered, for one test."""
    LOSSES.add("margin_info_nce", MarginInfoNceLoss)
    yield
    del LOSSES._parts["margin_info_nce"]


def test_formula() -> None:
    z = outputs(prerank=[0.5, -1.0, 2.0, 0.1])
    value = loss(
        MarginInfoNceLoss(kind="margin_info_nce", stage="prerank", positive=["exposed"], margin=0.25),
        z,
        requests([[2, 0, 1, 2]]),
    )
    rest = math.exp(-1.0) + math.exp(2.0)
    expected = [-math.log(math.exp(x - 0.25) / (math.exp(x - 0.25) + rest)) for x in (0.5, 0.1)]
    assert value == pytest.approx(sum(expected) / 2, rel=1e-5)
    gradient = z["prerank"].logits["click"].grad
    assert gradient is not None and gradient[0] < 0 < gradient[2]


@pytest.mark.thorough
def test_a_stage_learns_from_it(world: Path, tmp_path: Path) -> None:
    losses = (
        "losses=[{kind: click, stage: rank}, "
        "{kind: margin_info_nce, stage: prerank, positive: [exposed], margin: 0.5, weight: 0.3}]"
    )
    callback, steps = Silent(), ("train.requests=64", "train.epochs=3", losses)
    run = corank.train(world / "config.yaml", steps, folder=tmp_path / "run", callbacks=[callback]).run
    values = [terms["prerank.margin_info_nce"] for terms in callback.losses]
    assert values[-1] < values[0] and callback.losses[0].keys() == {"rank.click", "prerank.margin_info_nce"}
    own = Run.open(run.folder).config.losses[1]  # read again from the run's own config, every setting kept
    assert own == MarginInfoNceLoss(
        kind="margin_info_nce", stage="prerank", positive=["exposed"], margin=0.5, weight=0.3
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("margin: -1", "losses.0.margin: Input should be greater than or equal to 0; received -1"),
        ("margn: 1", "losses.0: unknown key 'margn'; did you mean 'margin'?"),
        ("positive: [shown]", "losses.0.positive: no level 'shown'"),
        ("stage: ranker", "losses.0.stage: no stage 'ranker'"),
    ],
)
def test_its_settings_are_validated_as_those_of_any_other(
    settings: str, message: str, world: Path, tmp_path: Path
) -> None:
    known = {"kind": "margin_info_nce", "stage": "prerank", "positive": "[exposed]"}
    key, value = settings.split(": ")
    text = ", ".join(f"{k}: {v}" for k, v in (known | {key: value}).items())
    with pytest.raises(ConfigError) as caught:
        corank.train(world / "config.yaml", [f"losses=[{{{text}}}]"], folder=tmp_path)
    assert message in str(caught.value)


def test_an_unknown_kind_says_how_a_plugin_is_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"losses\.0: unknown kind 'margin_nce'; did you mean .* plug-in"):
        corank.train(world / "config.yaml", ["losses=[{kind: margin_nce}]"], folder=tmp_path)


class NoKind(MarginInfoNceLoss):
    kind: str  # type: ignore[assignment]  # what is refused


class Incomplete(Loss):
    kind: Literal["incomplete"]

    @property
    def name(self) -> str:
        return "incomplete"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (dict, "is no Loss; derive it from corank.losses.base.Loss"),
        (MarginInfoNceLoss.values, "is no Loss"),
        (Incomplete, "does not define check, learner, population, values"),
        (NoKind, "has no `kind` of its own"),
    ],
)
def test_an_unfit_loss_is_refused_by_name(part: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        LOSSES.add("mine", part)
    assert "loss 'mine'" in str(caught.value) and message in str(caught.value)
    assert "mine" not in LOSSES
