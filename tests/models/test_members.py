"""Several predictions of shared weights, against the formula written out, and how they learn."""

import numpy as np
import pytest
import torch

from corank.losses.base import FunnelSpec
from corank.losses.settings.click import ClickLoss
from corank.losses.settings.distill import DistillLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.mixtures.members import MemberHeads, MemberLinear, average_members
from corank.models.settings.mlp import DcnSettings, MlpSettings
from corank.models.settings.two_tower import TowersSettings
from tests.support.encoded_batches import LAYOUT, random_batch
from tests.support.loss_cases import logits_of
from tests.support.models import mlp

FUNNEL = FunnelSpec(["exposed"], ["click"], {"prerank": ["click"], "rank": ["click"]})
CLICK = ClickLoss(kind="click", stage="rank")
DISTILL = DistillLoss(kind="distill", teacher="rank", student="prerank", on=["exposed"], form="pointwise")


def model(seed: int = 0) -> JointModel:
    torch.manual_seed(seed)
    towers = TowersSettings(name="prerank", model="towers", value="click", keep=3, query=[4], item=[4])
    rank = MlpSettings(
        name="rank",
        model="mlp",
        keep=2,
        hidden=[8, 6],
        members=3,
        dcn=DcnSettings(layers=1),
        normalisation="layer",
    )
    built = JointModel([towers, rank], LAYOUT)
    with torch.no_grad():
        for table in built.tables.parameters():
            table.normal_()
        for name, parameter in built.stages["rank"].named_parameters():
            if "of_" in name:
                parameter.normal_()
    return built


def test_members_are_layers_of_their_own_factors() -> None:
    built = model()
    rank, (batch, by_row) = mlp(built), random_batch(3)
    first, second, heads = rank.first, rank.hidden[0], rank.heads
    assert (
        isinstance(first, MemberLinear)
        and isinstance(second, MemberLinear)
        and isinstance(heads, MemberHeads)
    )
    assert rank.dcn is not None and rank.norm is not None
    inputs = built.inputs(batch)
    x = torch.cat(
        (inputs["query"][batch.request_of], inputs["item"][batch.item_of], inputs["cross"][: len(batch)]), 1
    )
    expected = []
    for k in range(3):
        h = first.of_outputs[k] * ((first.of_inputs[k] * x) @ first.weight.T) + first.bias[k]
        h = torch.relu(rank.norm(h))
        h = torch.relu(second.of_outputs[k] * ((second.of_inputs[k] * h) @ second.weight.T) + second.bias[k])
        expected.append(torch.cat((h, rank.dcn.cross(x)), 1) @ heads.weight[k].T + heads.bias[k])
    output = built(batch)["rank"]
    torch.testing.assert_close(output.members["click"], torch.cat(expected, 1), rtol=1e-4, atol=1e-4)
    mean = output.members["click"].sigmoid().mean(1)
    torch.testing.assert_close(output.logits["click"].sigmoid(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logits_of(built(batch)), logits_of(built(by_row)), rtol=1e-3, atol=1e-4)


def test_the_mean_of_far_logits_is_finite() -> None:
    means = average_members(torch.tensor([[200.0, 200.0], [-200.0, -200.0], [-40.0, 40.0], [1.0, 1.0]]))
    np.testing.assert_allclose(means, [200, -200, 0, 1], atol=1e-4)


def test_each_member_learns_by_itself_and_they_teach_as_one() -> None:
    built, batch = model(), random_batch(2)[0]
    outputs = built(batch)
    z, target, weight = (
        outputs["rank"].members["click"],
        batch.labels["click"].clamp_min(0),
        batch.label_weight("click"),
    )
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        z, target.unsqueeze(1).expand_as(z), reduction="none"
    )
    expected = (losses.mean(1) * weight).sum() / weight.sum()
    total, _ = TotalLoss([CLICK], FUNNEL)(outputs, batch, 1)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    taught, _ = TotalLoss([DISTILL], FUNNEL)(outputs, batch, 1)
    one = DISTILL.values(outputs, batch, FUNNEL)
    assert taught.item() == pytest.approx(((one[0] * one[1]).sum() / one[1].sum()).item(), rel=1e-5)
