"""Gates of features, against the formula, and in a ranker against full rows."""

import numpy as np
import torch

from corank.models.inputs.gates import FeatureGates
from corank.models.joint import JointModel
from corank.models.named_axes import number, read_axes
from corank.models.settings.inputs.gates import GateSettings
from corank.models.settings.mlp import MlpSettings
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import logits_of
from tests.support.models import mlp


def test_gates_are_the_formula_and_begin_at_one() -> None:
    torch.manual_seed(0)
    gates, x = FeatureGates(number("x", 3), ["a", "b", "a"], 2), torch.randn(4, 3)
    assert torch.equal(gates(x), x)
    with torch.no_grad():
        gates.excite.weight.normal_()
        gates.excite.bias.normal_()
    u, a, v, c = (p.detach().double().numpy() for p in gates.parameters())
    rows = x.double().numpy()
    factors = 2 / (1 + np.exp(-(np.maximum(rows @ u.T + a, 0) @ v.T + c)))
    np.testing.assert_allclose(gates(x).detach(), rows * factors[:, [0, 1, 0]], rtol=1e-4, atol=1e-5)


def test_a_ranker_reads_gated_features() -> None:
    torch.manual_seed(0)
    built = JointModel(
        [MlpSettings(name="rank", model="mlp", keep=2, hidden=[8], gates=GateSettings(hidden=3))], LAYOUT
    )
    rank, (batch, by_row) = mlp(built), random_batch(3)
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()
        for gates in rank.gates.values():
            assert isinstance(gates, FeatureGates)
            gates.excite.bias.normal_()
    inputs = built.inputs(batch)
    query, item, pair = (rank.gates[p](inputs[p]) for p in ("query", "item", "cross"))
    rows = torch.cat((query[batch.request_of], item[batch.item_of], pair[: len(batch)]), 1)
    expected = rank.heads(torch.relu(rank.first(rows))).squeeze(1)
    torch.testing.assert_close(built(batch)["rank"].logits["click"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits_of(built(batch)), logits_of(built(by_row)), rtol=1e-3, atol=1e-4)
    assert read_axes(rank)["gates.item.excite.weight"] == (("tags", "item", "price"), None)
