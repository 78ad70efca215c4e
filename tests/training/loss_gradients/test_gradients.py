"""Gradients of each loss by itself: their cosines, and what projection leaves of them, against sums written out."""

import pytest
import torch
from torch import Tensor, nn

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.settings.click import ClickLoss
from corank.losses.settings.unexposed import UnexposedLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.training.loss_gradients.gradients import Gradient, LossGradients, project
from tests.support.encoded_batches import LAYOUT, random_batch

TOTAL = TotalLoss(
    [
        ClickLoss(kind="click", stage="rank"),
        ClickLoss(kind="click", stage="prerank", weight=0.5),
        UnexposedLoss(kind="unexposed", stage="prerank", weight=2.0, **{"from": ["cut", "kept"]}),
    ],
    FunnelSpec(["cut", "kept", "exposed"], ["click"], {"prerank": ["click"], "rank": ["click"]}),
)


@pytest.fixture
def model() -> JointModel:
    torch.manual_seed(0)
    return JointModel(
        [
            TowersSettings(name="prerank", model="towers", value="click", keep=2),
            MlpSettings(name="rank", model="mlp", keep=1),
        ],
        LAYOUT,
    )


def losses_of(model: JointModel) -> dict[str, Tensor]:
    made: Batch = random_batch(3)[0]
    return TOTAL.parts(model(made), made, 1)[0]


def dense(model: JointModel) -> dict[str, Tensor]:
    """The gradients that the parameters hold, by name."""
    held = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad.to_dense() for name, grad in held.items() if grad is not None}


def apart(model: JointModel) -> dict[str, dict[str, Tensor]]:
    """The gradients of each loss by a backward pass of its own."""
    found = {}
    for name in losses_of(model):
        model.zero_grad(set_to_none=True)
        losses_of(model)[name].backward()
        found[name] = dense(model)
    model.zero_grad(set_to_none=True)
    return found


def flat(gradients: dict[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([gradients[name].reshape(-1) for name in names])


def shared(a: dict[str, Tensor], b: dict[str, Tensor], tables: bool) -> list[str]:
    return [name for name in a if name in b and name.startswith("tables.") == tables]


def test_cosines_are_of_the_weights_that_both_losses_reach(model: JointModel) -> None:
    by_loss = apart(model)
    found = LossGradients.of(model, losses_of(model)).cosines()
    assert dense(model) == {}, "measuring leaves no gradient behind"
    pairs = [("rank.click", "prerank.click"), ("rank.click", "prerank.unexposed")]
    inner = ("prerank.click", "prerank.unexposed")
    assert list(found) == [f"tables/{a}/{b}" for a, b in [*pairs, inner]] + ["layers/{}/{}".format(*inner)]
    for name, cosine in found.items():
        group, one, other = name.split("/")
        both = shared(by_loss[one], by_loss[other], group == "tables")
        a, b = flat(by_loss[one], both), flat(by_loss[other], both)
        assert cosine.item() == pytest.approx((a @ b / (a.norm() * b.norm())).item(), rel=1e-4)


def test_losses_that_agree_are_added_as_they_are(model: JointModel) -> None:
    """Each loss twice: a loss never contradicts itself."""
    clicks = {name: loss for name, loss in losses_of(model).items() if name == "prerank.click"}
    constant = {"constant": torch.tensor(1.0)}
    gradients = LossGradients.of(model, clicks | {"again": clicks["prerank.click"]} | constant)
    assert all("constant" not in name for name in gradients.cosines())
    gradients.set_projected([0])
    found, once = dense(model), apart(model)["prerank.click"]
    assert found.keys() == once.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_a_step_takes_what_is_left_of_all_losses(model: JointModel) -> None:
    """Of two losses: each without its part along the other, tables and layers by themselves."""
    by_loss = apart(model)
    one, other = (by_loss[name] for name in ("prerank.click", "prerank.unexposed"))
    losses = losses_of(model)
    # clicks are rare and negatives are none: turned round they contradict each other
    turned = {"prerank.click": losses["prerank.click"], "turned": -losses["prerank.unexposed"]}
    gradients = LossGradients.of(model, turned)
    assert gradients.cosines()["tables/prerank.click/turned"] < 0
    gradients.set_projected([1, 2])
    found = dense(model)
    for tables in (True, False):
        both = shared(one, other, tables)
        a, b = flat(one, both), -flat(other, both)
        expected = a + b - (a @ b) * (b / (b @ b) + a / (a @ a))
        torch.testing.assert_close(flat(found, both), expected, rtol=1e-4, atol=1e-7)
    weight = next(iter(model.tables.parameters()))
    assert weight.grad is not None and weight.grad.is_sparse and weight.grad.is_coalesced()


def test_a_weight_that_one_loss_alone_reaches_keeps_its_gradient() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([5.0])
    left = project([x, y, None], [torch.tensor([-1.0, 1.0]), None, torch.tensor([9.0])])
    assert left[0] is not None and left[0].tolist() == [0.5, 0.5]
    assert left[1] is y and left[2] is None
    zero = project([x], [torch.zeros(2)])
    assert zero[0] is not None and zero[0].tolist() == [1.0, 0.0]


def test_the_order_of_projections_is_drawn_from_the_seed() -> None:
    weight = nn.Parameter(torch.zeros(2))
    three: list[Gradient] = [
        [torch.tensor([1.0, 0.2])],
        [torch.tensor([-1.0, 1.0])],
        [torch.tensor([-0.1, -1.0])],
    ]
    names = ["a", "b", "c"]
    found: dict[int, set[tuple[float, ...]]] = {}
    for seed in [*range(8), *range(8)]:
        LossGradients(names, {"layers": [weight]}, {"layers": three}, {}).set_projected([0, seed])
        assert weight.grad is not None
        found.setdefault(seed, set()).add(tuple(weight.grad.tolist()))
    assert all(len(sums) == 1 for sums in found.values()), "a seed has one order"
    assert len(set.union(*found.values())) > 1, "seeds have several"
