"""A position's term in a click's logit: learnt with the layers, used in training only."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from corank.batches.batch import Batch
from corank.losses.click import ClickLoss
from corank.losses.total import TotalLoss
from corank.models.joint import JointModel
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageOutput
from corank.testing.batches import LAYOUT, batch, rows
from corank.testing.losses import SCOPE, loss
from corank.training.config.settings import DenseOptimiser, TableOptimiser
from corank.training.optimisers import optimisers

POSITIONS = 4
STAGES: list[TowersSettings | MlpSettings] = [
    TowersSettings(name="prerank", model="towers", value="click", keep=3, query=[8], item=[8]),
    MlpSettings(name="rank", model="mlp", keep=2, hidden=[8], labels=["click", "order"]),
]
CLICK = ClickLoss(kind="click", stage="rank")


def model(positions: int = POSITIONS, seed: int = 0) -> JointModel:
    torch.manual_seed(seed)
    return JointModel(STAGES, LAYOUT, positions=positions)


def placed(positions: list[int], click: list[int] | None = None) -> Batch:
    """A request of exposed candidates at the given positions."""
    n = len(positions)
    sides, clicked = rows(np.random.default_rng(0), 1, n, n), [0] * n if click is None else click
    made = batch(sides, np.zeros(n, int), np.arange(n), np.full(n, 2), np.array(clicked))
    return replace(made, position=torch.tensor(positions))


def has_positions(outputs: dict[str, StageOutput]) -> bool:
    return any(output.positions for output in outputs.values())


def test_it_is_absent_where_no_position_is_logged_and_when_not_training() -> None:
    logged = placed([1, 2])
    built = model()
    assert has_positions(built(logged))
    assert not has_positions(built(replace(logged, position=None)))
    assert not has_positions(built.eval()(logged))
    without = model(positions=0)
    assert not has_positions(without(logged)) and without.terms("rank") == {}
    assert not [n for n, _ in without.named_parameters() if "position" in n]


def test_click_is_judged_with_the_term_of_its_own_stage_and_label() -> None:
    made = placed([0, 1], [1, 0])

    def z(*added: str) -> dict[str, StageOutput]:
        """The ranker's logits; terms of positions for its labels and for the pre-ranker's click."""
        term, logit = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.25])
        prerank = StageOutput({"click": logit}, positions={"click": term})
        rank = StageOutput({"click": logit.requires_grad_()}, positions=dict.fromkeys(added, term))
        return {"prerank": prerank, "rank": rank}

    with_term = (math.log1p(math.exp(-2.5)) + math.log1p(math.exp(-0.75))) / 2
    without = (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(0.25))) / 2
    assert loss(CLICK, z("click"), made) == pytest.approx(with_term, rel=1e-6)
    assert loss(CLICK, z("order"), made) == pytest.approx(without, rel=1e-6)
    assert loss(CLICK, z(), made) == pytest.approx(without, rel=1e-6)


def test_training_recovers_what_each_position_is_worth() -> None:
    effect = np.array([1.5, 0.0, -1.0, 0.75])
    rng = np.random.default_rng(0)
    requests, built = 40, model(seed=1)
    steppers = optimisers(built, TableOptimiser(lr=0.02), {"rank": DenseOptimiser(lr=0.01)})
    total = TotalLoss([CLICK], SCOPE)
    sides = rows(rng, requests, 20, requests * POSITIONS)
    request_of = np.repeat(np.arange(requests), POSITIONS)
    worth = rng.normal(size=20)
    for _ in range(80):
        item = np.concatenate([rng.permutation(20)[:POSITIONS] for _ in range(requests)])
        position = np.tile(np.arange(POSITIONS), requests)
        clicked = rng.random(len(item)) < 1 / (1 + np.exp(-worth[item] - effect[position]))
        made = batch(sides, request_of, item, np.full(len(item), 2), clicked)
        made = replace(made, position=torch.from_numpy(position))
        for stepper in steppers.values():
            stepper.zero_grad(set_to_none=True)
        total(built(made), made, 1)[0].backward()
        for stepper in steppers.values():
            stepper.step()
    learnt = built.terms("rank")["click"].detach().numpy()
    assert np.argsort(learnt).tolist() == [2, 1, 3, 0]
    np.testing.assert_allclose(learnt - learnt.mean(), effect - effect.mean(), atol=0.4)
