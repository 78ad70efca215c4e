"""A stage model of a user's own, in one file: a factorisation machine, as pre-ranker and as ranker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import corank
from corank.analysis.logged_request import logged_request
from corank.bundle.bundle import Bundle
from corank.core.errors import PluginError
from corank.features.input_layout import Layout
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.models.joint import build_stage
from corank.models.settings.stage import STAGE_MODELS, VECTOR, StageSettings
from corank.testing.batches import LAYOUT, random_batch
from corank.testing.parity import assert_scored_as_evaluated
from corank.testing.parts import registered, unregister
from corank.testing.worlds import make_world
from corank.training.run import Run
from examples.plugins.factorisation_machine import FmSettings, FmVectorsSettings
from tests.support.models import joint, randomise
from tests.support.shared import shared
from tests.support.simulated_runs import Silent

PARTS: dict[str, type[StageSettings]] = {"fm": FmSettings, "fm_vectors": FmVectorsSettings}
unregister(STAGE_MODELS, *PARTS)  # registered in tests of this file alone


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """The stage models, for one test."""
    with registered(STAGE_MODELS, **PARTS):
        yield


def stage(model: str, **changes: Any) -> StageSettings:
    plain = {"name": "machine", "model": model, "keep": 3, "factors": 4}
    return PARTS[model].model_validate(plain | changes)


@pytest.mark.parametrize("model", PARTS)
def test_it_is_the_formula(model: str) -> None:
    batch, by_row = random_batch(2)
    built = joint(stage(model))
    randomise(built, 0.3)
    logits, inputs = built(batch)["machine"].logits["click"], built.inputs(batch)
    sides = {"query": inputs["query"][batch.request_of], "item": inputs["item"][batch.item_of]}
    sides |= {} if model == "fm_vectors" else {"cross": inputs["cross"][: len(batch)]}
    x = torch.cat(tuple(sides.values()), 1)
    terms = dict(built.stages["machine"].named_parameters())
    prefix = "" if model == "fm_vectors" else "sides."
    weight, factors = (
        torch.cat([terms[f"{prefix}{side}.{name}"] for side in sides]) for name in ("weight", "factor")
    )
    among = (factors @ factors.T).triu(1)
    expected = terms["bias"] + x @ weight + torch.einsum("ci,ij,cj->c", x, among, x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, built(by_row)["machine"].logits["click"], rtol=1e-4, atol=1e-4)


ROLES = {
    "pre-ranker": (
        "stages.0={name: prerank, model: fm_vectors, factors: 8, cuts: [retrieved], keep: 12}",
        "retrieval={stage: prerank, keep: 20}",
    ),
    "ranker": ("stages.1={name: rank, model: fm, factors: 8, cuts: [preranked], keep: 6}",),
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
    bundle = corank.export(run.folder, tmp_path / "bundle").bundle
    (facts,) = (facts for facts in bundle.manifest.stages if facts.model in PARTS)
    parts = ("prerank", "vectors", {VECTOR: 10}) if role == "pre-ranker" else ("rank", "graph", {})
    assert (facts.name, facts.scorer, facts.item_parts) == parts
    unregister(STAGE_MODELS, *PARTS)  # serving needs no plug-in: the facts name the scorer
    funnel = Funnel(Bundle.open(tmp_path / "bundle"))
    with registered(STAGE_MODELS, **PARTS):
        assert_scored_as_evaluated(run, funnel, requests=5)
    if role == "pre-ranker":
        answer = funnel.rank(Request.parse(logged_request(run, "test", 0) | {"candidates": None}))
        assert len(answer["items"]) == 6


class Plain(FmVectorsSettings):
    def build(self, layout: Layout) -> Any:
        return nn.Linear(1, 1)


class Forgetful(FmVectorsSettings):
    @property
    def item_parts(self) -> tuple[str, ...]:
        return ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Plain, "'fm_vectors': build must return a StageModel; received Linear"),
        (
            Forgetful,
            r"its settings name the item parts \[\], and the graph `item` of FactorVectors gives \['vector'\]",
        ),
    ],
)
def test_a_network_that_does_not_fit_its_settings_is_refused(
    settings: type[FmVectorsSettings], message: str
) -> None:
    plain = {"name": "machine", "model": "fm_vectors", "keep": 3}
    with pytest.raises(PluginError, match=message):
        build_stage(settings.model_validate(plain), LAYOUT)
