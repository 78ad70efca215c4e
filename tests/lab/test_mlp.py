"""Options of `mlp_lab`, each against its formula written out row by row, and settings that are refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from corank.core.settings import validate
from corank.features.encoding import Placement
from corank.models.joint import JointModel
from corank.models.named_axes import number, read_axes
from corank.models.settings.two_tower import TowersSettings
from corank.testing.batches import LAYOUT, random_batch
from corank_lab.models.inputs import FeatureGates, PeriodicEmbedding, PiecewiseEmbedding, fit_bins
from corank_lab.models.mixtures import ExpertHeads, ExpertLevel, MemberHeads, MemberLinear, average_members
from corank_lab.models.mlp import MlpLabSettings, PeriodicNumbers, PiecewiseNumbers
from corank_lab.models.mlp_network import MlpLab
from tests.support.configs import refused, shop
from tests.support.loss_cases import logits_of
from tests.support.models import plain_rows, randomise

SIDES: list[Placement] = ["query", "item", "cross"]
LABELS = ["click", "buy", "share"]
PRERANK = TowersSettings(name="prerank", value="click", keep=3, query=[4], item=[4])
MMOE, CGC = {"shared": 3, "width": 4}, {"shared": 2, "own": 1, "width": 4}
PLE = {"shared": 2, "own": 2, "width": 4, "levels": 2}


def stage(**options: object) -> MlpLabSettings:
    value = {"name": "rank", "model": "mlp_lab", "keep": 2, "hidden": [8, 6]} | options
    return validate(MlpLabSettings, value, "stages.1")


def model(seed: int = 0, **options: object) -> JointModel:
    torch.manual_seed(seed)
    built = JointModel([PRERANK, stage(**options)], LAYOUT)
    randomise(built)
    return built


def ranker(built: JointModel) -> MlpLab:
    network = built.stages["rank"]
    assert isinstance(network, MlpLab)
    return network


def assert_request_major(built: JointModel, seed: int = 3) -> None:
    """A request's rows give what a row a candidate gives."""
    ours, theirs = (logits_of(built(batch)) for batch in random_batch(seed))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_members_are_layers_of_their_own_factors() -> None:
    built, (batch, _) = model(members=3, dcn={"layers": 1}, normalisation="layer"), random_batch(3)
    rank = ranker(built)
    first, second, heads, dcn, norm = rank.first, rank.hidden[0], rank.heads, rank.dcn, rank.norm
    assert isinstance(first, MemberLinear) and isinstance(second, MemberLinear)
    assert isinstance(heads, MemberHeads) and dcn is not None and norm is not None
    x, expected = plain_rows(built.inputs(batch), batch), []
    for k in range(3):
        h = first.of_outputs[k] * ((first.of_inputs[k] * x) @ first.weight.T) + first.bias[k]
        h = torch.relu(norm(h))
        h = torch.relu(second.of_outputs[k] * ((second.of_inputs[k] * h) @ second.weight.T) + second.bias[k])
        expected.append(torch.cat((h, dcn.cross(x)), 1) @ heads.weight[k].T + heads.bias[k])
    output = built(batch)["rank"]
    torch.testing.assert_close(output.members["click"], torch.cat(expected, 1), rtol=1e-4, atol=1e-4)
    mean = output.members["click"].sigmoid().mean(1)
    torch.testing.assert_close(output.logits["click"].sigmoid(), mean, rtol=1e-4, atol=1e-6)
    assert_request_major(built)
    means = average_members(torch.tensor([[200.0, 200.0], [-200.0, -200.0], [-40.0, 40.0], [1.0, 1.0]]))
    np.testing.assert_allclose(means, [200, -200, 0, 1], atol=1e-4)


def relu_layer(layer: torch.nn.Module, x: Tensor, *at: int) -> Tensor:
    weight, bias = layer.get_parameter("weight")[at], layer.get_parameter("bias")[at]
    return torch.relu(weight @ x + bias)


def mixtures(level: ExpertLevel, read: list[Tensor], shared: int, own: int) -> list[Tensor]:
    """Inputs of one row for each label and shared experts (last) → those of the next level, by the papers' formulas."""
    *of_label, last = read
    common = [relu_layer(level.shared, last, j) for j in range(shared)]
    mixed, every = [], common
    for label, x in enumerate(of_label):
        mine = [relu_layer(level.own, x, label, j) for j in range(own) if level.own is not None]
        shares = torch.softmax(level.gates.weight[label] @ x, 0)
        mixed.append(sum((g * e for g, e in zip(shares, common + mine, strict=True)), torch.zeros(4)))
        every = every + mine
    if level.shared_gate is not None:
        shares = torch.softmax(level.shared_gate.weight @ last, 0)
        mixed.append(sum((g * e for g, e in zip(shares, every, strict=True)), torch.zeros(4)))
    return mixed


@pytest.mark.parametrize("experts", [MMOE, CGC, PLE], ids=["mmoe", "cgc", "ple"])
def test_labels_read_mixtures_of_experts(experts: dict[str, int]) -> None:
    built, (batch, _) = model(labels=LABELS, experts=experts, dcn={"layers": 1}), random_batch(3)
    rank = ranker(built)
    heads = rank.heads
    assert isinstance(heads, ExpertHeads) and rank.dcn is not None
    rows, logits = plain_rows(built.inputs(batch), batch), built(batch)["rank"].logits
    for n, (row, crossed) in enumerate(zip(rows, rank.dcn.cross(rows), strict=True)):
        x = torch.relu(rank.hidden[0](torch.relu(rank.first(row))))
        read = [x] * (len(LABELS) + 1)
        for level in heads.levels:
            assert isinstance(level, ExpertLevel)
            read = mixtures(level, read, experts["shared"], experts.get("own", 0))
        for k, label in enumerate(LABELS):
            expected = heads.weight[k] @ torch.cat((read[k], crossed)) + heads.bias[k]
            torch.testing.assert_close(logits[label][n], expected, rtol=1e-4, atol=1e-3)
    assert_request_major(built)


def test_gates_are_the_formula_and_begin_at_one() -> None:
    torch.manual_seed(0)
    gates, x = FeatureGates(number("x", 3), ["a", "b", "a"], 2), torch.randn(4, 3)
    assert torch.equal(gates(x), x)
    randomise(gates)
    u, a, v, c = (p.detach().double().numpy() for p in gates.parameters())
    rows = x.double().numpy()
    factors = 2 / (1 + np.exp(-(np.maximum(rows @ u.T + a, 0) @ v.T + c)))
    np.testing.assert_allclose(gates(x).detach(), rows * factors[:, [0, 1, 0]], rtol=1e-4, atol=1e-5)


def test_shares_of_bins_by_hand() -> None:
    embedding = PiecewiseEmbedding(PiecewiseNumbers(kind="piecewise", bins=4), [2, 0], number("x", 2))
    # quartiles of 0 … 8 are 0, 2, 4, 6, 8; the other number is always 5
    embedding.fit(np.stack([np.arange(9.0), np.full(9, 5.0)], axis=1).astype(np.float32))
    embedded = embedding(torch.tensor([[5.0, 7, 3], [4, 7, -1], [6, 7, 99], [5, 7, 6]]))
    of_first: list[list[float]] = [[1, 0.5, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert embedded.tolist() == [[*shares, 0, 0, 0, 0] for shares in of_first]
    low, slope = fit_bins(np.array([0.0] * 90 + [0.001, 1, 2, 3]), 8)  # close quantiles are one edge
    widths = 1 / slope[slope > 0]
    assert 1 <= len(widths) < 8 and widths.min() >= 0.01 and low[0] == 0 and not low[len(widths) :].any()
    assert low[len(widths) - 1] + widths[-1] == pytest.approx(3)
    assert not fit_bins(np.empty(0), 4)[1].any()


def test_waves_are_the_formula() -> None:
    torch.manual_seed(0)
    settings = PeriodicNumbers(kind="periodic", frequencies=3, sigma=1, dim=2)
    embedding = PeriodicEmbedding(settings, [1, 0], number("x", 2))
    x, expected = torch.randn(5, 2), []
    c, weight, bias = (p.detach().double().numpy() for p in embedding.parameters())
    for row in x.double().numpy():
        for f, value in enumerate(row[::-1]):
            angle = 2 * math.pi * c[f] * value
            waves = np.concatenate([np.sin(angle), np.cos(angle)])
            expected.append(np.maximum(waves @ weight[f] + bias[f, 0], 0))
    np.testing.assert_allclose(
        embedding(x).detach().flatten(), np.concatenate(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("gates", [None, {"hidden": 3}])
@pytest.mark.parametrize("dim", [None, 2])
def test_a_ranker_reads_numbers_beside_scaled_ones_and_gates_them(
    dim: int | None, gates: dict[str, int] | None
) -> None:
    built = model(hidden=[8], numbers={"kind": "piecewise", "bins": 3, "dim": dim}, gates=gates)
    rank, (batch, _) = ranker(built), random_batch(3)
    asked = list[str]()

    def sample(placement: str) -> np.ndarray:
        asked.append(placement)
        return np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)

    rank.fit_numbers(sample)
    assert asked == SIDES, "no number is a snapshot"
    inputs = built.inputs(batch)
    embedded = {p: torch.cat((inputs[p], rank.numbers[p](inputs[p])), 1) for p in SIDES}
    read = {p: rank.gates[p](x) if gates else x for p, x in embedded.items()}
    rows = plain_rows({**read, "snapshot": inputs["snapshot"]}, batch)
    expected = rank.heads(torch.relu(rank.first(rows)))
    torch.testing.assert_close(
        built(batch)["rank"].logits["click"], expected.squeeze(1), rtol=1e-4, atol=1e-4
    )
    assert_request_major(built)
    axes = read_axes(rank)
    names = axes["first.weight"][1]
    assert names is not None and "price[number 0] embedded[1]" in names, "so that `train --from` finds them"
    assert axes["numbers.item.low"] == (("price[number 0]",), None)
    assert gates is None or axes["gates.item.excite.weight"] == (("tags", "item", "price"), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["labels=[click]", "experts={own: 1}"],
            ".experts.own: 'click' is the only label, so that all experts",
        ),
        (["numbers={kind: piecewise}"], ".numbers: no feature is a number; drop it"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, changes: list[str], message: str) -> None:
    path = shop(tmp_path)
    overrides = [f"stages.1.{change}" for change in ("model=mlp_lab", *changes)]
    assert refused(path, "features.brand_seen=null", *overrides).startswith(f"stages.1{message}")
