"""Towers of the lab against their formulas: vectors that meet in more than a product, and generated vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from corank.batches.batch import Batch
from corank.losses.total import divide, weighted_sum
from corank.models.joint import JointModel
from corank.models.settings.stage import STAGE_MODELS
from corank.models.settings.two_tower import TowersSettings
from corank.testing.batches import LAYOUT, random_batch
from corank.testing.losses import SCOPE
from corank.training.config.config_file import read
from corank_lab.losses.mimic import MimicLoss
from corank_lab.models.towers_network import GeneratingTower, MeetingTowers, TowersHeads, TowersMlp
from tests.support.configs import refused, shop
from tests.support.models import two_tower

TERM = MimicLoss(stage="prerank")
COMMON = {"name": "prerank", "keep": 3, "query": [16, 8], "item": [12, 8]}
FOLDED = {"model": "towers_mlp", "hidden": 5}
HEADS = {"model": "towers_heads", "head": 3}
GENERATED = {"model": "towers_generated", "generated": [7]}


def of(*changes: dict[str, Any], **more: Any) -> TowersSettings:
    value: dict[str, Any] = COMMON
    for change in (*changes, more):
        value = value | change
    settings = STAGE_MODELS[value["model"]].model_validate(value)
    assert isinstance(settings, TowersSettings)
    return settings


def built(settings: TowersSettings) -> JointModel:
    torch.manual_seed(0)
    model = JointModel([settings], LAYOUT)
    with torch.no_grad():
        for table in model.tables.parameters():
            table.normal_()
    return model


def vectors(model: JointModel) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's logits, and the vectors of the query and of the item of each candidate, snapshot terms included."""
    batch, by_row = random_batch(3)
    logits = model(batch)["prerank"].logits["click"]
    torch.testing.assert_close(logits, model(by_row)["prerank"].logits["click"], rtol=1e-4, atol=1e-5)
    stage, inputs = model.stages["prerank"], model.inputs(by_row)
    assert isinstance(stage, MeetingTowers)
    snapshot = inputs["snapshot"] if inputs["snapshot"].shape[1] else None
    item = stage.record_vectors(inputs["item"], snapshot)[: len(logits)]
    return logits, stage.query_vectors(inputs["query"])[: len(logits)], item


@pytest.mark.parametrize("bias", [True, False])
def test_vectors_and_their_product_enter_a_hidden_layer(bias: bool) -> None:
    model = built(of(FOLDED, bias=bias))
    logits, q, v = vectors(model)
    stage = model.stages["prerank"]
    assert isinstance(stage, TowersMlp)
    weight = torch.cat([stage.of_query.weight, stage.of_item.weight, stage.of_product.weight], dim=1)
    hidden = torch.relu(torch.cat([q, v, q * v], dim=1) @ weight.T + stage.of_query.bias)
    expected = hidden @ stage.weight.weight[0] + stage.scale.exp() * (q * v).sum(1) + stage.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bias", "heads"), [(True, 2), (False, 4)])
def test_a_query_head_counts_by_its_best_item_head(bias: bool, heads: int) -> None:
    model = built(of(HEADS, bias=bias, head=3 if bias else 2))
    logits, q, v = vectors(model)
    stage = model.stages["prerank"]
    assert isinstance(stage, TowersHeads) and stage.in_heads == heads * stage.head
    one, other = (x[:, : stage.in_heads].reshape(len(x), heads, stage.head) for x in (q, v))
    products = torch.einsum("chp,cjp->chj", one, other)
    rest = (q[:, stage.in_heads :] * v[:, stage.in_heads :]).sum(1)
    expected = stage.scale.exp() * (products.amax(2).sum(1) + rest) + stage.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def towers(model: JointModel) -> tuple[GeneratingTower, GeneratingTower]:
    stage = two_tower(model)
    assert isinstance(stage.query, GeneratingTower) and isinstance(stage.item, GeneratingTower)
    return stage.query, stage.item


def loss(model: JointModel, batch: Batch) -> Tensor:
    return divide(*weighted_sum(*TERM.values(model(batch), batch, SCOPE)))


@pytest.mark.parametrize(("bias", "names"), [(True, None), (False, ["user", "hour"])])
def test_a_generator_comes_to_what_clicked_pairs_are(bias: bool, names: list[str] | None) -> None:
    model = built(of(GENERATED, bias=bias, query_features=names))
    batch, by_row = random_batch(3)
    assert batch.labels["click"].max() > 0
    query, item = towers(model)
    x, y = model.inputs(batch)["query"], model.inputs(batch)["item"]
    width = 8 - 2 * bias
    read = x if names is None else x[:, LAYOUT.columns("query", names)]
    mimic = normalize(query.generator(read), dim=1)
    assert mimic.shape[1] == width
    torch.testing.assert_close(query(x), query.tower(torch.cat((read, mimic), dim=1)))
    q, v = (
        normalize(z[:, :width], dim=1)
        for z in (two_tower(model).query_vectors(x), two_tower(model).item_vectors(y))
    )
    clicked = torch.nonzero(batch.labels["click"] > 0).squeeze(1)
    r, i = batch.request_of[clicked].long(), batch.item_of[clicked].long()
    expected = 2 - (mimic[r] * v[i]).sum(1) - (normalize(item.generator(y), dim=1)[i] * q[r]).sum(1)
    value = loss(model, batch)
    torch.testing.assert_close(value, expected.mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value, loss(model, by_row), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (HEADS | {"head": 5}, "must be 2 more than a multiple of head, 5; received 8; write for example 22"),
        (
            GENERATED | {"query_towers": {"one": {"features": ["user"]}}},
            "generated is of a single query tower",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        of(changes)
    assert message in str(caught.value)


def test_a_config_says_what_they_need(tmp_path: Path) -> None:
    path = shop(tmp_path)
    mimic, generating = "losses.1={kind: mimic, stage: prerank}", "stages.0.model=towers_generated"
    config = read(path, (mimic, generating))
    read_by = config.stages[0].input_features(config.declared)
    assert read_by["prerank.query_generator"] == ["user_id", "history", "tab"]
    assert "stages.prerank: no loss reads its 'mimics'; add one that does, kind: mimic" in refused(
        path, generating
    )
    folded = "stages.0.model=towers_mlp"
    assert "retrieval" in refused(path, folded, "retrieval={stage: prerank, keep: 3}")
    assert "prerank" in refused(path, folded, "losses.1={kind: in_batch, stage: prerank}")
