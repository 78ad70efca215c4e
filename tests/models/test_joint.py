from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.settings.click import ClickLoss
from corank.losses.settings.distill import DistillLoss
from corank.losses.settings.unexposed import UnexposedLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.layers import activated, activated_layers, linear
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageOutput
from corank.models.two_tower import Tower
from corank.training.optimisers import Average, optimisers
from corank.training.train_settings import TableOptimiser
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import logits_of
from tests.support.models import dense_gradients, linears, tables_of, two_tower
from tests.support.per_row_model import per_row

STAGES: list[TowersSettings | MlpSettings] = [
    TowersSettings(name="prerank", model="towers", value="click", keep=3, query=[16, 8], item=[12, 8]),
    MlpSettings(name="rank", model="mlp", keep=2, hidden=[16, 8]),
]
TOTAL = TotalLoss(
    [
        ClickLoss(kind="click", stage="rank"),
        ClickLoss(kind="click", stage="prerank"),
        UnexposedLoss(kind="unexposed", stage="prerank", **{"from": ["cut"]}),
        DistillLoss(kind="distill", teacher="rank", student="prerank", on=["kept", "exposed"]),
    ],
    FunnelSpec(["cut", "kept", "exposed"], ["click"], {"prerank": ["click"], "rank": ["click"]}),
)


Forward = Callable[[JointModel, Batch], dict[str, StageOutput]]


def model(seed: int = 0, **changes: Any) -> JointModel:
    torch.manual_seed(seed)
    built = JointModel([stage.model_copy(update=changes) for stage in STAGES], LAYOUT)
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()  # from the first step on, every gradient is of some size
    return built


def gradients(built: JointModel, batch: Batch, forward: Forward) -> tuple[float, dict[str, np.ndarray]]:
    total, _ = TOTAL(forward(built, batch), batch, 1)
    built.zero_grad(set_to_none=True)
    total.backward()
    return total.item(), dense_gradients(built)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_request_major_equals_a_row_a_candidate_in_loss_and_gradients(seed: int) -> None:
    by_request, by_row = random_batch(seed)
    built = model(seed)
    ours, our_gradients = gradients(built, by_request, lambda m, b: m(b))
    theirs, their_gradients = gradients(built, by_row, per_row)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, gradient in our_gradients.items():
        np.testing.assert_allclose(gradient, their_gradients[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.precision
def test_bf16_is_close_to_fp32() -> None:
    batch, _ = random_batch(1)
    built = model()
    exact = built(batch)
    built.dtype = torch.bfloat16
    for stage, output in built(batch).items():
        for label, z in output.logits.items():
            assert z.dtype == torch.float32
            torch.testing.assert_close(z, exact[stage].logits[label], rtol=0.1, atol=0.2)


@pytest.mark.precision
@pytest.mark.parametrize("width", [16, 40])
def test_fused_relu_has_the_gradient_of_the_plain_one(width: int) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(24, width), torch.randn(40, 24)
    outcomes = []
    for fused in (True, False):
        layer.zero_grad()
        leaf = x.bfloat16().requires_grad_()
        out = activated(leaf, layer.weight, layer.bias, "relu") if fused else torch.relu(linear(leaf, layer))
        out.sum().backward()
        outcomes.append((out.detach(), leaf.grad, layer.weight.grad, layer.bias.grad))
    for ours, plain in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.precision
def test_layers_together_have_the_bits_of_one_after_another() -> None:
    torch.manual_seed(0)
    layers, x = (
        [torch.nn.Linear(24, 40), torch.nn.Linear(40, 16), torch.nn.Linear(16, 16)],
        torch.randn(70, 24),
    )
    parameters = [part for layer in layers for part in (layer.weight, layer.bias)]
    outcomes = []
    for together in (True, False):
        leaf = out = x.bfloat16().requires_grad_()
        if together:
            out = activated_layers(leaf, layers, "relu")
        else:
            for layer in layers:
                out = activated(out, layer.weight, layer.bias, "relu")
        # twice, as when gradients of several losses are compared: saved tensors may not be overwritten
        wanted = [leaf, *parameters]
        torch.autograd.grad(out.float().square().sum(), wanted, retain_graph=True)
        outcomes.append([out, *torch.autograd.grad(out.float().square().sum(), wanted)])
    for ours, one_by_one in zip(*outcomes, strict=True):
        assert ours.dtype == one_by_one.dtype and torch.equal(ours, one_by_one)


def test_the_scale_of_the_dot_product_stays_positive() -> None:
    batch, _ = random_batch(3)
    built = model()
    with torch.no_grad():
        two_tower(built).scale.fill_(-20.0)
    low = built(batch)["prerank"].logits["click"]
    with torch.no_grad():
        two_tower(built).scale.fill_(0.0)
    high = built(batch)["prerank"].logits["click"]
    assert (torch.argsort(low.double() * 1e8) == torch.argsort(high.double())).float().mean() > 0.9


def test_a_stage_may_see_some_features_alone() -> None:
    batch, _ = random_batch(4)
    built = model(query_features=["user"], item_features=["item"])
    before = built(batch)["prerank"].logits["click"].detach().clone()
    batch.numbers["query"].add_(1)
    after = built(batch)
    torch.testing.assert_close(after["prerank"].logits["click"], before)
    query = two_tower(built).query
    assert isinstance(query, nn.Sequential) and isinstance(query[1], Tower)
    assert linears(query[1].layers)[0].in_features == 8


def test_layer_normalisation_follows_the_first_linear() -> None:
    batch, by_row = random_batch(5)
    built = model(normalisation="layer")
    assert built.stages["rank"].norm is not None
    logits = logits_of(built(batch))
    assert torch.isfinite(logits["rank"]["click"]).all()
    repeated = logits_of(built(by_row))  # statistics of a row do not depend on how often it occurs
    torch.testing.assert_close(logits, repeated, rtol=1e-4, atol=1e-5)


def train(built: JointModel, average: Average | None, table: str = "rowwise_adagrad", steps: int = 5) -> None:
    steppers = optimisers(built, TableOptimiser(optimiser=table), {})
    for seed in range(steps):
        batch, _ = random_batch(seed)
        gradients(built, batch, lambda m, b: m(b))
        if average:
            average.before()
        for optimiser in steppers.values():
            optimiser.step()
        if average:
            average.after()


def test_rowwise_adagrad_by_hand() -> None:
    built = model()
    table = tables_of(built).weights["8"]
    before = table.detach().clone()
    optimiser = optimisers(built, TableOptimiser(lr=0.1), {})["table"]
    batch, _ = random_batch(6)
    _, gradient_of = gradients(built, batch, lambda m, b: m(b))
    optimiser.step()
    g = gradient_of["tables.shared.weights.8"]
    step = 0.1 * g / (np.sqrt((g**2).mean(1, keepdims=True)) + 1e-8)
    np.testing.assert_allclose(table.detach().numpy(), before.numpy() - step, rtol=1e-5, atol=1e-6)
    untouched = np.abs(g).sum(1) == 0
    assert untouched.any() and (table.detach().numpy()[untouched] == before.numpy()[untouched]).all()


@pytest.mark.parametrize("table", ["rowwise_adagrad", "lazy_adam"])
def test_the_lazy_average_equals_the_plain_one(table: str) -> None:
    built, again = model(), model()
    average = Average(built, 0.9)
    train(built, average, table)
    plain = {n: p.detach().clone() for n, p in again.named_parameters()}
    steppers = optimisers(again, TableOptimiser(optimiser=table), {})
    for seed in range(5):
        batch, _ = random_batch(seed)
        gradients(again, batch, lambda m, b: m(b))
        for optimiser in steppers.values():
            optimiser.step()
        for name, weight in again.named_parameters():
            plain[name] += 0.1 * (weight.detach() - plain[name])
    for name, weight in average.model().named_parameters():
        torch.testing.assert_close(weight.detach(), plain[name], rtol=1e-4, atol=1e-6, msg=name)


def test_missing_and_unknown_values_begin_at_zero() -> None:
    built = JointModel(STAGES, LAYOUT)
    table = tables_of(built).weights["8"].detach()
    for first in (0, 9, 39):
        assert (table[first : first + 2] == 0).all() and (table[first + 2] != 0).all()
