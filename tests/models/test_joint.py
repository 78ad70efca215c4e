"""All stages as one model: request-major equals a row a candidate, in precision, averages and parts of a batch."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.click import ClickLoss
from corank.losses.distill import DistillLoss
from corank.losses.total import TotalLoss
from corank.losses.unexposed import UnexposedLoss
from corank.models.joint import JointModel
from corank.models.layers import activated, activated_layers, linear, relu_in_place
from corank.models.settings.mlp import DcnSettings, DinSettings, MlpSettings, TeacherSettings
from corank.models.settings.two_tower import TowersSettings
from corank.testing.batches import random_batch
from corank.testing.losses import requests
from corank.training.config.settings import TableOptimiser
from corank.training.optimisers import Average, optimisers
from tests.support.history_batches import RAGGED, attended
from tests.support.models import assert_learns_alike, joint, learn, tables_of
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


def model(seed: int = 0, **changes: Any) -> JointModel:
    return joint(*(stage.model_copy(update=changes) for stage in STAGES), seed=seed)


CROSSED: dict[str, dict[str, Any]] = {
    "full": {"dcn": DcnSettings()},
    "narrow": {"dcn": DcnSettings(rank=3)},
    "normalised": {"dcn": DcnSettings(), "normalisation": "layer"},
}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_request_major_equals_a_row_a_candidate_in_loss_and_gradients(seed: int) -> None:
    assert_learns_alike(model(seed), TOTAL, *random_batch(seed), per_row)


@pytest.mark.parametrize("crossed", CROSSED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_with_cross_layers_it_does_too(crossed: str, seed: int) -> None:
    rank = STAGES[1].model_copy(update=CROSSED[crossed])
    assert_learns_alike(joint(STAGES[0], rank, seed=seed), TOTAL, *random_batch(seed))


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


def test_relu_on_integers_has_the_numbers_of_the_plain_one() -> None:
    """Of every number of bf16, and of NaN; forward and backward."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    upstream = torch.linspace(-3, 3, 2**16).bfloat16()
    outcomes = []
    for relu in (relu_in_place, torch.relu_):
        leaf = every.clone().requires_grad_()
        out = relu(leaf * 1)
        out.backward(upstream)
        outcomes.append((out.detach(), leaf.grad))
    (ours, our_gradient), (plain, gradient) = outcomes
    assert gradient is not None and our_gradient is not None
    torch.testing.assert_close(ours, plain, rtol=0, atol=0, equal_nan=True)
    number = ~every.isnan()
    assert torch.equal(our_gradient[number], gradient[number])


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


def train(built: JointModel, average: Average | None, table: str = "rowwise_adagrad", steps: int = 5) -> None:
    steppers = optimisers(built, TableOptimiser(optimiser=table), {})
    for seed in range(steps):
        batch, _ = random_batch(seed)
        learn(built, TOTAL, batch)
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
    _, gradient_of = learn(built, TOTAL, batch)
    optimiser.step()
    g = gradient_of["tables.shared.weights.8"]
    step = 0.1 * g / (np.sqrt((g**2).mean(1, keepdims=True)) + 1e-8)
    np.testing.assert_allclose(table.detach().numpy(), before.numpy() - step, rtol=1e-5, atol=1e-6)
    untouched = np.abs(g).sum(1) == 0
    assert untouched.any() and (table.detach().numpy()[untouched] == before.numpy()[untouched]).all()


@pytest.mark.parametrize("table", ["rowwise_adagrad", "lazy_adam"])
def test_the_lazy_average_equals_the_plain_one(table: str) -> None:
    """Of what the steps left, each weighted .9 times as much as the next: the first weights have no part in it."""
    built, again = model(), model()
    average = Average(built, 0.9)
    train(built, average, table)
    plain = {n: torch.zeros_like(p) for n, p in again.named_parameters()}
    weights = [0.9 ** (4 - seed) / sum(0.9**n for n in range(5)) for seed in range(5)]
    steppers = optimisers(again, TableOptimiser(optimiser=table), {})
    for seed in range(5):
        batch, _ = random_batch(seed)
        learn(again, TOTAL, batch)
        for optimiser in steppers.values():
            optimiser.step()
        for name, weight in again.named_parameters():
            plain[name] += weights[seed] * weight.detach()
    for name, weight in average.model().named_parameters():
        torch.testing.assert_close(weight.detach(), plain[name], rtol=1e-4, atol=1e-6, msg=name)


def test_an_average_close_to_one_begins_as_the_plain_mean() -> None:
    """And begins anew where it is told to."""
    built = model()
    average = Average(built, 0.999_999)
    for begun in (0, 1):
        average.begun = begun
        train(built, average, steps=1)
        shipped = dict(average.model().named_parameters())
        for name, weight in built.named_parameters():
            torch.testing.assert_close(shipped[name], weight, rtol=1e-4, atol=1e-6, msg=name)


# Networks score some candidates of a batch

TEACHER = TeacherSettings(name="teacher", scores=["served"], hidden=[8])


def drawn(seed: int, size: int = 30) -> Batch:
    """Many candidates a request, with production scores."""
    rng = np.random.default_rng(seed)
    made = requests([rng.permutation([2, *rng.integers(0, 2, size)]).tolist() for _ in range(4)])
    return replace(made, scores={"served": torch.from_numpy(rng.normal(size=len(made)).astype(np.float32))})


def gradients_of(built: JointModel, z: Tensor) -> dict[str, Tensor]:
    built.zero_grad(set_to_none=True)
    (z * torch.arange(1, len(z) + 1)).sum().backward()
    gradient_of = {name: p.grad for name, p in built.named_parameters() if p.grad is not None}
    return {name: g.to_dense() if g.is_sparse else g for name, g in gradient_of.items()}


RANKERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sees": {"from_stages": ["prerank.score", "prerank.rank"]},
    "attends": {"din": DinSettings(history="seen", attributes=["tags"])},
}


@pytest.mark.parametrize("population", [{2: None}, {0: None, 2: None}, {7: None}], ids=str)
@pytest.mark.parametrize("ranker", RANKERS)
def test_a_network_says_of_some_candidates_what_it_says_of_all(
    ranker: str, population: dict[int, int | None]
) -> None:
    batch, rank = drawn(1), STAGES[1].model_copy(update=RANKERS[ranker])
    if ranker == "attends":
        batch = attended([(9, [3, 0, 3]), (0, [5]), *RAGGED, (7, [0, 32])])[0]
        level = torch.arange(len(batch), dtype=torch.uint8) % 3
        batch = replace(batch, level=level, scores={"served": torch.zeros(len(batch))})
    built, chosen = joint(STAGES[0], rank, teachers=[TEACHER]), batch.in_population(population)
    names = ["prerank", "rank", "teacher"]
    whole = built.outputs(batch, names)
    some = built.outputs(batch, names, {"rank": population, "teacher": population})
    assert torch.equal(some["prerank"].logits["click"], whole["prerank"].logits["click"])
    for name in ("rank", "teacher"):
        ours, all_ = some[name].logits["click"], whole[name].logits["click"]
        assert not ours[~chosen].any()
        torch.testing.assert_close(ours[chosen], all_[chosen], rtol=1e-5, atol=1e-6)
        mine, theirs = gradients_of(built, ours), gradients_of(built, all_ * chosen)
        assert mine.keys() == theirs.keys()
        for parameter, gradient in mine.items():
            torch.testing.assert_close(gradient, theirs[parameter], rtol=1e-4, atol=1e-4)
