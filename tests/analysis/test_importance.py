"""Permutation importance of features, and its document."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import corank
from corank.analysis.importance import _readers, _shuffled, measure_importance
from corank.batches.build import EncodedBatch, build_batch, replace_rows
from corank.batches.reader import Reader
from corank.evaluation.rows import name_row
from corank.features.encoding import PLACEMENTS
from corank.training.run import Run
from tests.support.cases import Case
from tests.support.models import mlp
from tests.support.random_worlds import DERIVED, Drawn
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


@pytest.fixture(scope="module")
def document(trained: Run) -> dict[str, Any]:
    calls: list[tuple[int, int]] = []
    explanation = corank.explain(
        trained.folder, progress=lambda done, total: calls.append((done, total))
    ).document
    requests = sum(len(shard) for shard in trained.packed().splits["valid"])
    assert calls == sorted(calls)
    assert calls[-1] == (requests, requests)
    return explanation


# The document


def test_figures_with_all_features_are_those_of_the_evaluation(
    trained: Run, document: dict[str, Any]
) -> None:
    found = corank.evaluate(trained.folder, "valid")
    explained = {name_row(row): row for row in document["rows"] if not row["group"]}
    names = {f"{stage}.exposed.click.{metric}" for stage in ("prerank", "rank") for metric in ("auc", "gauc")}
    assert explained.keys() == names
    for name, row in explained.items():
        assert row["value"] == pytest.approx(found.row(name)["value"], abs=1e-9)


# Importance of features


def ordered_by(trained: Run, feature: str, folder: Path) -> Run:
    """A copy of the run whose ranker orders by the first column of one feature, its pre-ranker not at all."""
    packed = trained.packed()
    model, calibrators = trained.model(packed)
    at = PLACEMENTS.index(packed.schema.placement(feature))
    before = sum(model.layout.width(placement) for placement in PLACEMENTS[:at])
    column = before + int(model.layout.columns(PLACEMENTS[at], [feature])[0])
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if not n.startswith("tables.")):
            parameter.zero_()
        rank = mlp(model)
        rank.first.get_parameter("bias")[0] = 100  # out of reach of the ReLU
        rank.first.get_parameter("weight")[0, column] = 1
        next(rank.hidden.parameters())[0, 0] = next(rank.heads.parameters())[0, 0] = 1
    run = Run.create(folder, trained.config, trained.base)
    run.finish(packed, model, calibrators, {"epoch": 0, "step": 0, "figures": [{}]})
    return run


@pytest.mark.parametrize("feature", ["activity", "price", "category_clicks"])
def test_what_alone_is_read_is_worth_all_and_what_is_not_read_nothing(
    trained: Run, tmp_path: Path, feature: str
) -> None:
    explanation = measure_importance(ordered_by(trained, feature, tmp_path / "run"), "train", 20_000)
    rows = {(row["group"], row["stage"], row["metric"]): row for row in explanation["rows"]}
    auc, worth = rows["", "rank", "auc"]["value"], rows.pop((feature, "rank", "auc"))["difference"]
    assert abs(auc - 0.5) > 0.04
    assert 0.3 < worth / (auc - 0.5) < 1.7  # shuffled anew it orders at random
    del rows[feature, "rank", "gauc"]
    others = [row for row in rows.values() if row["group"]]
    assert len(others) == 4 * len(explanation["features"]) - 2
    assert {(row["difference"], row["low"], row["high"]) for row in others} == {(0, 0, 0)}


def test_a_seed_has_its_figures(trained: Run) -> None:
    first, again, other = (measure_importance(trained, "valid", 20_000, seed) for seed in (3, 3, 4))
    assert first == again
    whole, lost = ([row for row in first["rows"] if bool(row["group"]) is of] for of in (False, True))
    assert other["rows"][: len(whole)] == whole and other["rows"][len(whole) :] != lost


# How values are shuffled


def first_batch(case: Case) -> EncodedBatch:
    model = case.model
    shown = {len(case.packed.data.levels) - 1: None}
    reader = Reader(case.packed, "train", 512, shown, attended=model.attended, sees_ranks=model.sees_ranks)
    return next(reader.read_encoded(0))


@pytest.mark.parametrize("drawn", [DERIVED, DERIVED | {"matches": True}], ids=["derived", "matches"])
def test_a_batch_with_other_rows_is_that_of_the_whole(drawn: Drawn) -> None:
    case = shared_case(drawn)
    layout, schema, model = case.model.layout, case.packed.schema, case.model.eval()
    encoded = first_batch(case)
    batch = build_batch(layout, encoded)
    for feature in schema.inputs():
        shuffled = _shuffled(encoded, schema, feature, np.random.default_rng(0))
        with torch.no_grad():
            outputs = model(replace_rows(layout, batch, encoded, shuffled))
            expected = model(build_batch(layout, shuffled))
            same = model(batch)
        readers = _readers(case.config.stages, schema, feature)
        for stage, output in expected.items():
            for label, logits in output.logits.items():
                assert torch.equal(outputs[stage].logits[label], logits)
                if stage not in readers:
                    assert torch.equal(same[stage].logits[label], logits)
