"""Matches of query and item, added to the product of vectors: their term, serving, and refused settings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from corank.core.errors import BundleError
from corank.evaluation.predict import predict_split
from corank.models.joint import JointModel
from corank.models.settings.two_tower import TowersSettings
from corank.models.two_tower import Towers
from corank.serving.funnel.request import Request
from corank.serving.funnel.scorers.match_terms import MatchTerms
from corank.serving.funnel.scorers.parts_scorer import PartsScorer
from corank.training.config_file import read
from tests.support.cases import Case
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.models import two_tower
from tests.support.random_worlds import DERIVED, FOLDED, HEADS, NARROW, Drawn

PLAIN_RANKER: Drawn = dict.fromkeys(("din", "dcn", "numbers", "members", "gates")) | {"earlier": []}
SEEN = "features.seen={kind: count, of: [history, item_id]}"


def of(**changes: object) -> TowersSettings:
    fields = {"name": "prerank", "keep": 3, "query": [16, 8], "item": [12, 8], "matches": ["match", "pair"]}
    return TowersSettings.model_validate({**fields, **changes})


def test_weighted_columns_are_added_to_the_product() -> None:
    """Those of numbers weigh nothing at first, those of embeddings one."""
    torch.manual_seed(0)
    model = JointModel([of()], LAYOUT)
    stage = two_tower(model)
    assert stage.matches is not None
    assert stage.matches.weight.tolist() == [1.0] * 8 + [0.0]
    batch, by_row = random_batch(3)
    with torch.no_grad():
        stage.matches.weight.normal_()
        for table in model.tables.parameters():
            table.normal_()
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
@pytest.mark.parametrize(("first", "middle"), [({}, HEADS | NARROW), (FOLDED, None)])
def test_a_bundle_counts_matches_as_packing_did(tmp_path: Path, first: Drawn, middle: Drawn | None) -> None:
    """Of numbers and of buckets, of lists on either side."""
    case = Case.of(tmp_path, DERIVED | PLAIN_RANKER | {"structure": first, "middle": middle, "matches": True})
    stage = case.config.stages[0]
    assert isinstance(stage, TowersSettings)
    kinds = {(type(f := case.packed.schema.features[n]).__name__, f.storage) for n in stage.matches}
    assert {(f"{k}Feature", s) for k in ("Count", "Within") for s in ("id", "number")} <= kinds
    predictions = predict_split(case.model, case.packed, "test")
    start = predictions.requests.start
    network = case.model.stages["prerank"]
    assert isinstance(network, Towers) and network.matches is not None
    for n in range(len(start) - 1):
        logits = case.funnel.logits(Request.parse(case.request("test", n)))
        for name in ("prerank", "middle") if middle else ("prerank",):
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
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT, encoding="utf-8")
    matched = (SEEN, "stages.0.matches=[seen]")
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
            "stages.prerank.matches: 'brand_seen' is no feature of kind count or contains of the query and the item, "
            "such as {kind: count, of: [history.brand, brand]}, or of kind within; none is declared",
        ),
        (
            [SEEN, "stages.0.matches=[tab]"],
            "of the query and the item, such as {kind: count, of: [history.brand, ",
        ),
        ([SEEN, "stages.0.matches=[tab]"], "; those declared are seen"),
        ([SEEN, "stages.0.matches=[seen, seen]"], "stages.prerank.matches: 'seen' is there twice; drop one"),
    ],
)
def test_what_is_no_match_is_refused(tmp_path: Path, changes: list[str], message: str) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT, encoding="utf-8")
    assert message in refused(path, *changes)
