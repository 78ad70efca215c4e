"""Cross layers, against the formula written out, and in a ranker against full rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.sums import padded
from corank.losses.base import FunnelSpec
from corank.losses.settings.click import ClickLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.mlp import Dcn
from corank.models.named_axes import number
from corank.models.pairs import BatchPairs
from corank.models.settings.mlp import DcnSettings, MlpSettings
from corank.models.stage_io import StageInputs
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import logits_of
from tests.support.models import dense_gradients, linears, mlp

TOTAL = TotalLoss(
    [ClickLoss(kind="click", stage="rank")], FunnelSpec(["exposed"], ["click"], {"rank": ["click"]})
)


def filled(layer: torch.nn.Linear, weight: list[list[float]], bias: list[float] | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def test_two_full_layers_by_hand() -> None:
    dcn = Dcn(DcnSettings(layers=2), number("x", 2))
    assert [tuple(p.shape) for p in dcn.parameters()] == [(2, 2), (2,), (2, 2), (2,)]
    filled(linears(dcn.up)[0], [[1, 2], [0, -1]], [0.5, 1])
    filled(linears(dcn.up)[1], [[0, 1], [1, 1]], [-1, 0])
    # x₀ = (2, 3): W x + b = (8.5, −2), x₁ = (2·8.5 + 2, 3·−2 + 3) = (19, −3)
    # then (−3 − 1, 19 − 3) = (−4, 16), x₂ = (2·−4 + 19, 3·16 − 3) = (11, 45)
    assert dcn.cross(torch.tensor([[2.0, 3.0], [0.0, 0.0]])).tolist() == [[11, 45], [0, 0]]


def test_a_bottleneck_by_hand() -> None:
    dcn = Dcn(DcnSettings(layers=1, rank=1), number("x", 3))
    filled(linears(dcn.down)[0], [[1, -1, 2]])
    filled(linears(dcn.up)[0], [[1], [2], [-1]], [0, 1, 0])
    # V x = 1 − 2 + 6 = 5, U V x + b = (5, 11, −5)
    assert dcn.cross(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1 * 5 + 1, 2 * 11 + 2, 3 * -5 + 3]]


@pytest.mark.parametrize(("rank", "layers"), [(None, 1), (None, 3), (2, 2), (7, 3)])
def test_layers_are_the_formula(rank: int | None, layers: int) -> None:
    torch.manual_seed(0)
    dcn, first = Dcn(DcnSettings(layers=layers, rank=rank), number("x", 4)), torch.randn(6, 4)
    x = x0 = first.double().numpy()
    for n in range(layers):
        up, bias = (p.detach().double().numpy() for p in (linears(dcn.up)[n].weight, linears(dcn.up)[n].bias))
        down = np.eye(4) if rank is None else linears(dcn.down)[n].weight.detach().double().numpy()
        x = x0 * (x @ down.T @ up.T + bias) + x
    np.testing.assert_allclose(dcn.cross(first).detach().numpy(), x, rtol=1e-4, atol=1e-5)


def model(seed: int = 0, rank: int | None = None, normalisation: str = "none") -> JointModel:
    torch.manual_seed(seed)
    crossing = DcnSettings(layers=2, rank=rank)
    built = JointModel(
        [
            MlpSettings(
                name="rank", model="mlp", keep=2, hidden=[16, 8], dcn=crossing, normalisation=normalisation
            )
        ],
        LAYOUT,
    )
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_(std=0.5)
    return built


def plain_rows(inputs: Mapping[Any, Tensor], batch: Batch) -> Tensor:
    """All inputs of each candidate: (C, W)."""
    query, item = inputs["query"][batch.request_of], inputs["item"][batch.item_of]
    return torch.cat((query, item, *(inputs[p][: len(batch)] for p in ("snapshot", "cross"))), 1)


def test_a_candidate_is_crossed_with_its_request_and_its_item() -> None:
    batch, _ = random_batch(2, requests=14, items=40)
    count = len(batch)
    assert padded(count) > count
    torch.manual_seed(0)
    items = padded(int(batch.item_of.max()) + 1)
    shapes = {"query": (14, 3), "item": (items, 2)}
    shapes |= {"snapshot": (padded(count), 2), "cross": (padded(count), 1)}
    inputs = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    dcn = Dcn(DcnSettings(), number("x", 8))
    query, item, snapshot, cross = inputs.values()
    crossed = dcn(StageInputs(query, item, snapshot, cross, BatchPairs(batch)))[:count]
    expected = dcn.cross(plain_rows(inputs, batch))
    torch.testing.assert_close(crossed, expected)
    gradient = torch.randn_like(crossed)
    leaves = [*inputs.values(), *dcn.parameters()]
    ours, theirs = (torch.autograd.grad((x * gradient).sum(), leaves) for x in (crossed, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_ranker_judges_by_what_is_deep_and_what_is_crossed() -> None:
    batch, _ = random_batch(4)
    built = model(rank=3)
    rank = mlp(built)
    assert rank.dcn is not None
    rows = plain_rows(built.inputs(batch), batch)
    deep = torch.relu(linears(rank.hidden)[0](torch.relu(rank.first(rows))))
    expected = rank.heads(torch.cat((deep, rank.dcn.cross(rows)), 1)).squeeze(1)
    torch.testing.assert_close(built(batch)["rank"].logits["click"], expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        rank.heads.weight[:, :8] = 0
    assert built(batch)["rank"].logits["click"].std() > 0.01, "the crossed half reaches the logit by itself"


def gradients(built: JointModel, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
    total, _ = TOTAL(built(batch), batch, 1)
    built.zero_grad(set_to_none=True)
    total.backward()
    return total.item(), dense_gradients(built)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, 3]), st.sampled_from(["none", "layer"]))
def test_request_major_equals_a_row_a_candidate(seed: int, rank: int | None, normalisation: str) -> None:
    by_request, by_row = random_batch(seed)
    built = model(seed, rank, normalisation)
    torch.testing.assert_close(logits_of(built(by_request)), logits_of(built(by_row)), rtol=1e-3, atol=1e-4)
    ours, our_gradients = gradients(built, by_request)
    theirs, their_gradients = gradients(built, by_row)
    assert ours == pytest.approx(theirs, rel=1e-4)
    for name, gradient in our_gradients.items():
        np.testing.assert_allclose(gradient, their_gradients[name], rtol=2e-3, atol=1e-4, err_msg=name)
