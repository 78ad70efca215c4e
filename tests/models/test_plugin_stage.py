"""A stage model of a user's own, in one file: a factorisation machine, as pre-ranker and as ranker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

import corank
from corank.analysis.logged_request import logged_request
from corank.bundle.bundle import Bundle
from corank.core.errors import ConfigError, PluginError
from corank.evaluation.predict import predict_split
from corank.features.input_layout import Layout
from corank.features.schema import Schema
from corank.models.joint import JointModel, build_stage
from corank.models.layers import linear
from corank.models.settings.network import FirstLayer
from corank.models.settings.stage import STAGE_MODELS, VECTOR, StageSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import StageModel, VectorModel
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.config.config_file import read
from corank.training.run import Run
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.shared import shared
from tests.support.simulated_runs import Silent, make_world


class FactorisationSettings(StageSettings):
    """y = w₀ + Σ_i w_i x_i + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j over the dense inputs x.

    Source: Rendle, Factorization Machines, ICDM 2010. Pairs within a side are a bias of that side, so that as a
    pre-ranker only ⟨Σ v_i x_i of the query, Σ v_j x_j of the item⟩ is left to a request.
    """

    model: Literal["factorisation_machine"]
    value: str = "click"
    label: str = "click"
    factors: PositiveInt = 8
    vectors: bool = False
    """Whether it has item vectors; it then knows nothing of pairs and of earlier stages."""

    @property
    def labels(self) -> list[str]:
        return [self.label]

    @property
    def scorer(self) -> str:
        return "vectors" if self.vectors else "graph"

    @property
    def item_parts(self) -> tuple[str, ...]:
        return (VECTOR,) if self.vectors else ()

    def build(self, layout: Layout) -> StageModel:
        return VectorMachine(self, layout) if self.vectors else Machine(self, layout)

    def first_layers(self, schema: Schema) -> list[FirstLayer]:
        if not self.vectors:
            return [FirstLayer(frozenset(schema.features), self.factors + 1)]
        query, item = frozenset(schema.row_features("query")), frozenset(schema.row_features("item"))
        width = self.factors + 1
        return [FirstLayer(query, width, "query"), FirstLayer(item, width, "item", online=False)]


class Side(nn.Module):
    """Contribution of one side's inputs: Σ v_i x_i, (N, factors), and Σ w_i x_i − ½ Σ ‖v_i‖² x_i², (N, 1)."""

    def __init__(self, width: int, factors: int) -> None:
        super().__init__()
        self.factors, self.weight = nn.Linear(width, factors, bias=False), nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        squares = self.factors.weight.square().sum(0).to(x.dtype)
        own = linear(x, self.weight) - x.square() @ squares.unsqueeze(1) / 2
        return linear(x, self.factors), own


class Machine(StageModel):
    """The ranker: pairs of query, item and cross features."""

    def __init__(self, settings: FactorisationSettings, layout: Layout) -> None:
        super().__init__()
        self.label = settings.label
        self.query, self.item, self.cross = (
            Side(layout.width(side), settings.factors) for side in ("query", "item", "cross")
        )
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs: StageInputs) -> StageOutput:
        query, item, cross = self.query(inputs.query), self.item(inputs.item), self.cross(inputs.cross)
        total = inputs.pairs.sum(query[0], item[0], cross[0]).float()
        own = inputs.pairs.sum(query[1], item[1], cross[1]).float().squeeze(1)
        return StageOutput({self.label: self.bias + own + total.square().sum(1) / 2})


class VectorMachine(VectorModel):
    """The pre-ranker: q' = [Σ v_i x_i, b_query, 1] and v' = [Σ v_j x_j, 1, b_item]."""

    def __init__(self, settings: FactorisationSettings, layout: Layout) -> None:
        super().__init__()
        self.label = settings.label
        self.query, self.item = (Side(layout.width(side), settings.factors) for side in ("query", "item"))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def query_vectors(self, query: Tensor) -> Tensor:
        total, own = self._terms(self.query, query)
        return torch.cat((total, own, torch.ones_like(own)), 1)

    def item_vectors(self, item: Tensor) -> Tensor:
        total, own = self._terms(self.item, item)
        return torch.cat((total, torch.ones_like(own), own), 1)

    def logit_bias(self) -> Tensor:
        return self.bias

    @staticmethod
    def _terms(side: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        total, own = side(x)
        return total, own + total.square().sum(1, keepdim=True) / 2


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """The stage model registered, for one test."""
    STAGE_MODELS.add("factorisation_machine", FactorisationSettings)
    yield
    del STAGE_MODELS._parts["factorisation_machine"]


def stage(**changes: Any) -> FactorisationSettings:
    plain = {"name": "machine", "model": "factorisation_machine", "keep": 3, "factors": 4}
    return FactorisationSettings.model_validate(plain | changes)


@pytest.mark.parametrize("vectors", [False, True])
def test_it_is_the_formula(vectors: bool) -> None:
    batch, by_row = random_batch(2)
    torch.manual_seed(0)
    model = JointModel([stage(vectors=vectors)], LAYOUT)
    network = model.stages["machine"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    logits = model(batch)["machine"].logits["click"]
    inputs = model.inputs(batch)
    sides = {"query": inputs["query"][batch.request_of], "item": inputs["item"][batch.item_of]}
    sides |= {} if vectors else {"cross": inputs["cross"][: len(batch)]}
    x = torch.cat(tuple(sides.values()), 1)
    weight, factors = (
        torch.cat([getattr(network.get_submodule(side), name).weight for side in sides], 1)
        for name in ("weight", "factors")
    )
    among = torch.einsum("ki,kj->ij", factors, factors).triu(1)
    expected = network.get_parameter("bias") + x @ weight[0] + torch.einsum("ci,ij,cj->c", x, among, x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, model(by_row)["machine"].logits["click"], rtol=1e-4, atol=1e-4)


ROLES = {
    "pre-ranker": (
        "stages.0={name: prerank, model: factorisation_machine, cuts: [retrieved], keep: 12, vectors: true}",
        "retrieval={stage: prerank, keep: 20}",
    ),
    "ranker": ("stages.1={name: rank, model: factorisation_machine, cuts: [preranked], keep: 6}",),
}


SNAPSHOT = "features.item_clicked={kind: prior, by: [item_id], label: click}"
"""A feature that the plug-in does not read; the stage beside it does."""


def snapshot_world() -> Path:
    """A world of its own, as this packing would lie next to the data of other tests."""
    return shared("snapshot_world", lambda f: corank.pack(make_world(f / "world"), [SNAPSHOT])) / "world"


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), (SNAPSHOT,)])
@pytest.mark.parametrize("role", ROLES)
def test_it_trains_exports_and_ranks_as_it_was_trained(
    role: str, more: tuple[str, ...], world: Path, tmp_path: Path
) -> None:
    callback = Silent()
    steps = ("train={epochs: 4, requests: 64, seed: 1}", *more)
    config = (snapshot_world() if more else world) / "config.yaml"
    corank.train(config, (*ROLES[role], *steps), folder=tmp_path / "run", callbacks=[callback])
    run = Run.open(tmp_path / "run")  # read again from the run's own config
    stage = "prerank" if role == "pre-ranker" else "rank"
    auc = [figures[f"{stage}.click.auc"] for figures in callback.figures]
    assert auc[-1] is not None and auc[-1] > 0.55
    packed = run.packed()
    assert [*packed.schema.row_features("snapshot")] == ["item_clicked"] * len(more)
    model, _ = run.model(packed)
    bundle = corank.export(run.folder, tmp_path / "bundle").bundle
    (facts,) = (facts for facts in bundle.manifest.stages if facts.model == "factorisation_machine")
    parts = ("prerank", "vectors", {VECTOR: 10}) if role == "pre-ranker" else ("rank", "graph", {})
    assert (facts.name, facts.scorer, facts.item_parts) == parts
    predictions = predict_split(model, packed, "test")
    del STAGE_MODELS._parts["factorisation_machine"]  # serving needs no plug-in: the facts name the scorer
    funnel = Funnel(Bundle.open(tmp_path / "bundle"))
    STAGE_MODELS.add("factorisation_machine", FactorisationSettings)
    (shard,) = packed.splits["test"]
    since = max(
        [0, *bundle.manifest.priors.values()]
    )  # from then on the bundle's snapshot is that of requests
    for number in np.flatnonzero(shard.time >= since)[:5].tolist():
        request = Request.parse(logged_request(run, "test", number))
        rows = slice(*predictions.requests.start[number : number + 2])
        for name, by_label in funnel.logits(request).items():
            for label, logits in by_label.items():
                np.testing.assert_allclose(
                    1 / (1 + np.exp(-logits)),
                    1 / (1 + np.exp(-predictions.logits[name][label][rows])),
                    atol=1e-5,
                )
        assert len(funnel.rank(request)["items"]) == 6
    if role == "pre-ranker":
        answer = funnel.rank(Request.parse(logged_request(run, "test", 0) | {"candidates": None}))
        assert len(answer["items"]) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("factors: 0", "stages.1.factors: Input should be greater than 0; received 0"),
        ("facters: 8", "stages.1: unknown key 'facters'; did you mean 'factors'?"),
        ("label: buy", "stages.1.labels: no label 'buy'"),
        ("keep: 99", "stages.1.keep: 'rank' would keep 99 of the 18"),
    ],
)
def test_its_settings_are_validated_as_those_of_any_other(world: Path, settings: str, message: str) -> None:
    key, value = settings.split(": ")
    plain = {"name": "rank", "model": "factorisation_machine", "keep": "6"} | {key: value}
    override = ", ".join(f"{k}: {v}" for k, v in plain.items())
    with pytest.raises(ConfigError) as caught:
        read(world / "config.yaml", [f"stages.1={{{override}}}"])
    assert message in str(caught.value)


def test_without_vectors_it_cannot_retrieve(world: Path) -> None:
    override = "stages.0={name: prerank, model: factorisation_machine, cuts: [retrieved], keep: 12}"
    with pytest.raises(ConfigError, match=r"retrieval\.stage: "):
        read(world / "config.yaml", [override, "retrieval={stage: prerank, keep: 20}"])


class NoBuild(StageSettings):
    model: Literal["no_build"]
    value: str = "click"
    labels: list[str] = ["click"]


class NoLabels(StageSettings):
    model: Literal["no_labels"]

    def build(self, layout: Layout) -> StageModel:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Machine, "stage model 'unfit': expected a subclass of StageSettings; received .*Machine"),
        (NoBuild, "stage model 'unfit': NoBuild must define build"),
        (NoLabels, "stage model 'unfit': NoLabels must have `labels`, a field or a property"),
    ],
)
def test_an_unfit_stage_model_is_refused_by_name(part: type, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        STAGE_MODELS.register("unfit")(part)
    assert "unfit" not in STAGE_MODELS


class Plain(FactorisationSettings):
    def build(self, layout: Layout) -> StageModel:
        return nn.Linear(1, 1)  # type: ignore[return-value]


class Forgetful(FactorisationSettings):
    @property
    def item_parts(self) -> tuple[str, ...]:
        return ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Plain, "'factorisation_machine': build must return a StageModel; received Linear"),
        (
            Forgetful,
            r"its settings name the item parts \[\], and the graph `item` of VectorMachine gives \['vector'\]",
        ),
    ],
)
def test_a_network_that_does_not_fit_its_settings_is_refused(
    settings: type[FactorisationSettings], message: str
) -> None:
    plain = {"name": "machine", "model": "factorisation_machine", "keep": 3, "vectors": True}
    with pytest.raises(PluginError, match=message):
        build_stage(settings.model_validate(plain), LAYOUT)
