"""Towers whose vectors meet in a hidden layer or head by head: their formulas and serving."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from corank.evaluation.predict import predict_split
from corank.models.joint import JointModel
from corank.models.settings.tower_structures import TowersHeadsSettings, TowersMlpSettings
from corank.models.tower_structures import TowersHeads, TowersMlp
from corank.serving.funnel.request import Request
from tests.support.cases import Case
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.random_worlds import FOLDED, HEADS, NARROW, RICH

COMMON = {"name": "prerank", "keep": 3, "query": [16, 8], "item": [12, 8]}


def mlp_settings(**changes: Any) -> TowersMlpSettings:
    return TowersMlpSettings.model_validate({**COMMON, **FOLDED, **changes})


def heads_settings(**changes: Any) -> TowersHeadsSettings:
    return TowersHeadsSettings.model_validate({**COMMON, **HEADS, "head": 3, **changes})


def vectors(model: JointModel, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's logits, and the vectors of the query and of the item of each candidate, snapshot terms included."""
    batch, by_row = random_batch(seed)
    with torch.no_grad():
        for table in model.tables.parameters():
            table.normal_()
    logits = model(batch)["prerank"].logits["click"]
    torch.testing.assert_close(logits, model(by_row)["prerank"].logits["click"], rtol=1e-4, atol=1e-5)
    stage, inputs = model.stages["prerank"], model.inputs(by_row)
    assert isinstance(stage, TowersMlp | TowersHeads)
    snapshot = inputs["snapshot"] if inputs["snapshot"].shape[1] else None
    item = stage.record_vectors(inputs["item"], snapshot)[: len(logits)]
    return logits, stage.query_vectors(inputs["query"])[: len(logits)], item


@pytest.mark.parametrize("bias", [True, False])
def test_vectors_and_their_product_enter_a_hidden_layer(bias: bool) -> None:
    torch.manual_seed(0)
    model = JointModel([mlp_settings(bias=bias)], LAYOUT)
    logits, q, v = vectors(model, 3)
    stage = model.stages["prerank"]
    assert isinstance(stage, TowersMlp)
    weight = torch.cat([stage.of_query.weight, stage.of_item.weight, stage.of_product.weight], dim=1)
    hidden = torch.relu(torch.cat([q, v, q * v], dim=1) @ weight.T + stage.of_query.bias)
    expected = hidden @ stage.weight.weight[0] + stage.scale.exp() * (q * v).sum(1) + stage.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bias", "heads"), [(True, 2), (False, 4)])
def test_a_query_head_counts_by_its_best_item_head(bias: bool, heads: int) -> None:
    torch.manual_seed(0)
    model = JointModel([heads_settings(bias=bias, head=3 if bias else 2)], LAYOUT)
    logits, q, v = vectors(model, 3)
    stage = model.stages["prerank"]
    assert isinstance(stage, TowersHeads) and stage.in_heads == heads * stage.head
    one, other = (x[:, : stage.in_heads].reshape(len(x), heads, stage.head) for x in (q, v))
    products = torch.einsum("chp,cjp->chj", one, other)
    rest = (q[:, stage.in_heads :] * v[:, stage.in_heads :]).sum(1)
    expected = stage.scale.exp() * (products.amax(2).sum(1) + rest) + stage.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_bundle_scores_both_as_the_model_does(tmp_path: Path) -> None:
    """`towers_heads` after `towers_mlp`, with the vectors of both in the items' records."""
    case = Case.of(tmp_path, RICH | {"structure": FOLDED, "middle": HEADS | NARROW})
    predictions = predict_split(case.model, case.packed, "test")
    start = predictions.requests.start
    for n in range(len(start) - 1):
        request = case.request("test", n)
        logits = case.funnel.logits(Request.parse(request))
        for stage in ("prerank", "middle"):
            theirs = predictions.logits[stage]["click"][start[n] : start[n + 1]]
            np.testing.assert_allclose(logits[stage]["click"], theirs, atol=4e-5)
    assert case.funnel.manifest.product_stages == []
    assert [stage.name for stage in case.funnel.manifest.vector_stages] == ["prerank", "middle"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": 5}, "must be 2 more than a multiple of head, 5; received 8; write for example 22"),
        ({"head": 3, "bias": False}, "must be a multiple of head, 3; received 8; write for example 12"),
        ({"query": [8, 4]}, "the towers of 'prerank' meet head by head, so their last widths must be equal"),
    ],
)
def test_heads_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        heads_settings(**changes)
    assert message in str(caught.value)


def test_scaled_structures_are_whole() -> None:
    assert mlp_settings().scale_widths(0.5).hidden == 2
    scaled = heads_settings(query=[16, 14], item=[12, 14]).scale_widths(0.5)
    assert (scaled.query, scaled.item) == ([8, 8], [6, 8])
    TowersHeadsSettings.model_validate(scaled.model_dump())


def test_their_vectors_are_not_for_retrieval(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT, encoding="utf-8")
    text = "stages.0.model=towers_mlp"
    assert "retrieval" in refused(path, text, "retrieval={stage: prerank, keep: 3}")
    assert "prerank" in refused(path, text, "losses.1={kind: in_batch, stage: prerank}")
