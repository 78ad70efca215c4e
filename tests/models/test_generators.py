"""Towers that read a generated vector of the other side, and the loss that trains the generators."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from corank.batches.batch import Batch
from corank.evaluation.predict import predict_split
from corank.losses.means import divide, weighted_sum
from corank.losses.settings.mimic import MimicLoss
from corank.models.inputs.generators import GeneratingTower
from corank.models.joint import JointModel
from corank.models.settings.two_tower import TowersSettings
from corank.serving.funnel.request import Request
from corank.training.config.config_file import read
from tests.support.cases import Case
from tests.support.configs import TEXT, refused
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import SCOPE
from tests.support.models import two_tower
from tests.support.random_worlds import HEADS, RICH

TERM = MimicLoss(stage="prerank")


def of(**changes: object) -> TowersSettings:
    fields = {"name": "prerank", "keep": 3, "query": [16, 8], "item": [12, 8], "generated": [7]}
    return TowersSettings.model_validate({**fields, **changes})


def built(**changes: object) -> JointModel:
    torch.manual_seed(0)
    model = JointModel([of(**changes)], LAYOUT)
    with torch.no_grad():
        for table in model.tables.parameters():
            table.normal_()
    return model


def towers(model: JointModel) -> tuple[GeneratingTower, GeneratingTower]:
    stage = two_tower(model)
    assert isinstance(stage.query, GeneratingTower) and isinstance(stage.item, GeneratingTower)
    return stage.query, stage.item


def loss(model: JointModel, batch: Batch) -> torch.Tensor:
    return divide(*weighted_sum(*TERM.values(model(batch), batch, SCOPE)))


@pytest.mark.parametrize(("bias", "names"), [(True, None), (False, ["user", "hour"])])
def test_a_generator_comes_to_what_clicked_pairs_are(bias: bool, names: list[str] | None) -> None:
    model = built(bias=bias, query_features=names)
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


def test_the_loss_trains_generators_and_tables_alone() -> None:
    model, (batch, _) = built(), random_batch(3)
    before = loss(model, batch)
    before.backward()
    learnt = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("tables.") for name in learnt)
    assert {name.split(".generator.")[0] for name in learnt if not name.startswith("tables.")} == {
        "stages.prerank.query",
        "stages.prerank.item",
    }
    model.zero_grad()
    model(batch)["prerank"].logits["click"].sum().backward()
    parameters = [p for tower in towers(model) for p in tower.generator.parameters()]
    assert all(p.grad is None or not p.grad.any() for p in parameters)
    optimiser = torch.optim.Adam(parameters, 0.01)
    for _ in range(20):
        optimiser.zero_grad()
        loss(model, batch).backward()
        optimiser.step()
    assert loss(model, batch) < before - 0.2


def test_nothing_is_imagined_for_losses_outside_training() -> None:
    model, (batch, _) = built(), random_batch(3)
    assert model(batch)["prerank"].mimics is not None
    assert model.eval()(batch)["prerank"].mimics is None


def test_a_bundle_scores_as_the_model_does(tmp_path: Path) -> None:
    case = Case.of(tmp_path, RICH | {"structure": HEADS | {"generated": [3]}, "narrow": True})
    predictions = predict_split(case.model, case.packed, "test")
    start = predictions.requests.start
    for n in range(len(start) - 1):
        logits = case.funnel.logits(Request.parse(case.request("test", n)))
        theirs = predictions.logits["prerank"]["click"][start[n] : start[n + 1]]
        np.testing.assert_allclose(logits["prerank"]["click"], theirs, atol=4e-5)


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT, encoding="utf-8")
    mimic, generated = "losses.1={kind: mimic, stage: prerank}", "stages.0.generated=[16]"
    config = read(path, (mimic, generated))
    read_by = config.stages[0].input_features(config.declared)
    assert read_by["prerank.query_generator"] == ["user_id", "history", "tab"]
    assert of(generated=[16]).scale_widths(0.5).generated == [8]
    assert "losses.1.stage: 'prerank' generates no vectors; write generated: [64] for it" in refused(
        path, mimic
    )
    assert (
        "stages.prerank.generated: no loss trains the generators; add {kind: mimic, stage: prerank}, or drop it"
        in refused(path, generated)
    )
    with pytest.raises(ValidationError, match="generated is of a single query tower"):
        of(query_towers={"one": {"features": ["user"]}})
