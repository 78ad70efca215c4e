"""Towers: several of a query, biases within vectors, matches beside them, features that training leaves out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from corank.core.errors import BundleError, ConfigError
from corank.evaluation.predict import predict_split
from corank.funnel.request import Request
from corank.funnel.stage_scorer import MatchTerms, PartsScorer
from corank.models.settings.network import StageContext
from corank.models.settings.two_tower import TowersSettings
from corank.models.two_tower import FeatureDropout, Sum, Tower, Towers
from corank.testing.batches import LAYOUT, SCHEMA, random_batch
from corank.training.config.config_file import read
from tests.support.cases import Case
from tests.support.configs import data_settings, refused, shop
from tests.support.models import joint, linears, two_tower
from tests.support.random_worlds import DERIVED, NARROW

DATA = data_settings()
WIDE: dict[str, Any] = {"features": ["hour"], "widths": [8, 4]}
SPLIT: dict[str, dict[str, Any]] = {
    "person": {"features": ["user", "age"], "widths": [6, 8]},
    "past": {"features": ["seen"]},
    "now": {"features": ["hour"], "widths": [8]},
}


def of(**changes: object) -> TowersSettings:
    fields = {
        "name": "prerank",
        "model": "towers",
        "keep": 3,
        "query": [16, 8],
        "item": [12, 8],
        "bias": False,
    }
    return TowersSettings.model_validate({**fields, "query_towers": SPLIT, **changes})


def towers(**changes: object) -> Towers:
    torch.manual_seed(0)
    return Towers(of(**changes), LAYOUT)


def several(built: Towers) -> Sum:
    """The query towers whose vectors are summed."""
    assert isinstance(built.query, Sum)
    return built.query


def layers_of(tower: nn.Module) -> list[nn.Linear]:
    """The layers of a query tower that reads some features."""
    assert isinstance(tower, nn.Sequential) and isinstance(tower[1], Tower)
    return linears(tower[1].layers)


def columns(*names: str) -> list[int]:
    numbers: list[int] = LAYOUT.columns("query", names).tolist()
    return numbers


def test_the_query_vector_is_the_sum_of_the_towers() -> None:
    query = several(towers())
    x = torch.randn(5, LAYOUT.width("query"))
    expected = torch.zeros(5, 8)
    for tower, spec in zip(query.towers, SPLIT.values(), strict=True):
        layers = layers_of(tower)
        h = x[:, columns(*spec["features"])]
        for layer in layers[:-1]:
            h = torch.relu(h @ layer.weight.T + layer.bias)
        expected += h @ layers[-1].weight.T + layers[-1].bias
    torch.testing.assert_close(query(x), expected)


@pytest.mark.parametrize("some", [{}, {"query_towers": {}}])
def test_each_side_adds_a_bias_within_the_vectors(some: dict[str, Any]) -> None:
    batch, by_row = random_batch(3)
    built = joint(of(bias=True, **some))
    output, stage, inputs = built(batch)["prerank"], two_tower(built), built.inputs(batch)
    q, v = stage.query(inputs["query"]), stage.item_vectors(inputs["item"])
    assert q.shape[1] == 7 and v.shape[1] == 8 and (v[:, -1] == 1).all()
    of_query, of_item = q[batch.request_of], v[batch.item_of]
    product = (of_query[:, :6] * of_item[:, :6]).sum(1)
    assert stage.scale.exp().item() == pytest.approx(8**-0.5)
    expected = stage.scale.exp() * (product + of_item[:, 6]) + of_query[:, 6] + stage.bias
    torch.testing.assert_close(output.logits["click"], expected)
    torch.testing.assert_close(expected, built(by_row)["prerank"].logits["click"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bias": True, "query_towers": {}, "query": [2], "item": [2]},
            "the last width is 3 or more; received 2",
        ),
        ({"query_features": ["user"]}, "query_features are those of a single query tower; drop them"),
        (
            {"query_towers": {**SPLIT, "now": WIDE}},
            "their last widths must be equal; received now 4 and item 8",
        ),
    ],
)
def test_towers_that_contradict_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        of(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("side", ["query", "item"])
def test_a_tower_that_reads_nothing_is_refused(side: str) -> None:
    with pytest.raises(
        ConfigError, match=f"prerank.{side}_features: the {side} tower reads no feature; those of"
    ):
        of(query_towers={}, **{f"{side}_features": []}).check(StageContext("stages.0", SCHEMA, DATA))


# Matches

SEEN = "features.seen={kind: count, of: [history, item_id]}"


def test_weighted_columns_are_added_to_the_product() -> None:
    """Those of numbers weigh nothing at first, those of embeddings one."""
    model = joint(of(query_towers={}, matches=["match", "pair"]))
    stage = two_tower(model)
    assert stage.matches is not None
    assert stage.matches.weight.tolist() == [1.0] * 8 + [0.0]
    batch, by_row = random_batch(3)
    with torch.no_grad():
        stage.matches.weight.normal_()
    output = model(batch)["prerank"]
    assert output.vectors is None, "no vector knows the matches, so that no loss may take them for the logit"
    torch.testing.assert_close(
        output.logits["click"], model(by_row)["prerank"].logits["click"], rtol=1e-4, atol=1e-5
    )
    cross, weight = model.inputs(batch)["cross"][: len(batch)], stage.matches.weight
    stage.matches = None
    torch.testing.assert_close(
        output.logits["click"] - model(batch)["prerank"].logits["click"], cross @ weight, rtol=1e-4, atol=1e-5
    )


@pytest.mark.thorough
def test_a_bundle_counts_matches_as_packing_did(tmp_path: Path) -> None:
    """Of numbers and of buckets, of lists on either side."""
    towers = {"model": "towers"} | NARROW
    case = Case.of(
        tmp_path, DERIVED | {"din": None, "dcn": None, "middle": towers, "earlier": [], "matches": True}
    )
    stage = case.config.stages[0]
    assert isinstance(stage, TowersSettings)
    kinds = {(type(f := case.packed.schema.features[n]).__name__, f.storage) for n in stage.matches}
    assert {"CountFeature", "WithinFeature", "PriorFeature"} <= {kind for kind, _ in kinds}
    assert {"id", "number"} <= {storage for _, storage in kinds}
    predictions = predict_split(case.model, case.packed, "test")
    start = predictions.requests.start
    network = case.model.stages["prerank"]
    assert isinstance(network, Towers) and network.matches is not None
    for n in range(len(start) - 1):
        logits = case.funnel.logits(Request.parse(case.request("test", n)))
        for name in ("prerank", "middle"):
            theirs = predictions.logits[name]["click"][start[n] : start[n + 1]]
            np.testing.assert_allclose(logits[name]["click"], theirs, atol=4e-5)
    with torch.no_grad():
        network.matches.weight.add_(1.0)
    changed = predict_split(case.model, case.packed, "test").logits["prerank"]["click"]
    assert np.abs(changed - predictions.logits["prerank"]["click"]).max() > 0.1
    assert case.funnel.manifest.product_stages == []
    scorer = case.funnel.scorer.stages["prerank"]
    assert isinstance(scorer, PartsScorer)
    scorer.inputs.stage.matches.append("user_0")
    with pytest.raises(BundleError, match="'user_0' is no match of query and item; export the bundle again"):
        MatchTerms(scorer.inputs)


def test_vectors_alone_are_refused_where_matches_count(tmp_path: Path) -> None:
    path, matched = shop(tmp_path), (SEEN, "stages.0.matches=[seen]")
    stage = read(path, matched).stages[0]
    assert stage.counted() == ["seen"] and stage.has_vectors and not stage.orders_by_product
    assert stage.input_features(read(path, matched).declared)["prerank.matches"] == ["seen"]
    assert stage.without_features(["seen"]).counted() == []
    message = refused(path, *matched, "retrieval={stage: prerank, keep: 3}")
    assert "retrieval.stage: 'prerank' orders by more than a product of vectors" in message
    message = refused(path, *matched, "losses.1={kind: in_batch, stage: prerank}")
    assert "'prerank' has no vectors of queries and items whose product alone orders them" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["stages.0.matches=[brand_seen]"],
            "stages.prerank.matches: 'brand_seen' is no feature of kind count",
        ),
        ([SEEN, "stages.0.matches=[seen, seen]"], "stages.prerank.matches: 'seen' is there twice; drop one"),
    ],
)
def test_what_is_no_match_is_refused(tmp_path: Path, changes: list[str], message: str) -> None:
    assert message in refused(shop(tmp_path), *changes)


# Features that training leaves out row by row


def test_a_row_loses_the_whole_feature_or_has_more_of_it() -> None:
    torch.manual_seed(0)
    dropped, x = (
        FeatureDropout(LAYOUT, "item", {"item": 0.75, "user": 0.5}),
        torch.ones(4000, LAYOUT.width("item")),
    )
    item = LAYOUT.columns("item", ["item"])
    seen = dropped(x).numpy()
    assert (np.delete(seen, item, axis=1) == 1).all()
    assert (seen[:, item] == seen[:, item[:1]]).all()
    assert set(seen[:, item[0]]) == {0, 4}
    assert seen[:, item[0]].mean() == pytest.approx(1, abs=0.1)
    assert dropped.eval()(x) is x


def test_towers_leave_features_out_in_training_alone() -> None:
    built, plain = (
        towers(query_towers={}, feature_dropout=rates) for rates in ({"item": 0.5, "user": 0.5}, {})
    )
    for vectors, side in (("item_vectors", "item"), ("query_vectors", "query")):
        x = torch.randn(20, LAYOUT.width("item" if side == "item" else "query"))
        whole = getattr(plain, vectors)(x)
        assert not torch.equal(getattr(built.train(), vectors)(x), whole)
        assert torch.equal(getattr(built.eval(), vectors)(x), whole)


def test_only_features_of_the_towers_may_be_left_out(tmp_path: Path) -> None:
    error = refused(shop(tmp_path), "stages.0.feature_dropout={item_di: 0.5}")
    unknown = "unknown tower feature 'item_di'; did you mean 'item_id'?"
    assert error.startswith(f"stages.prerank.feature_dropout.item_di: {unknown}")
