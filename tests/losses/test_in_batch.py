import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from corank.batches.batch import Batch
from corank.batches.sampling import BATCH
from corank.core.errors import ConfigError
from corank.losses.settings.in_batch import InBatchLoss
from corank.models.joint import JointModel
from corank.models.settings.two_tower import TowersSettings
from corank.models.stage_io import StageOutput, StageVectors
from tests.support.encoded_batches import LAYOUT, batch, rows
from tests.support.loss_cases import SCOPE, loss, softplus
from tests.support.models import grad_of

TERM = InBatchLoss(kind="in_batch", stage="prerank", temperature=0.5)
REQUEST, ITEM = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 3, 3]
LEVEL, CLICK = [2, 2, 2, 2, 0, 2], [1, 1, 0, 1, -1, 0]
SHARE = [0.4, 0.3, 0.001, 0.05]


def made(click: list[int] = CLICK, level: list[int] = LEVEL) -> Batch:
    sides = rows(np.random.default_rng(0), 3, 4, 6)
    candidates = batch(sides, np.array(REQUEST), np.array(ITEM), np.array(level), np.array(click))
    return replace(candidates, share=torch.tensor(SHARE), weight=torch.tensor([1.0, 2, 1, 3, 1, 1]))


def towers() -> tuple[StageOutput, StageVectors, torch.Tensor]:
    """Towers' output and vectors with one row more of padding than there are items, and those of all pairs."""
    torch.manual_seed(0)
    query, item = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    scale, bias = torch.tensor(0.6, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    z = scale * query @ item.t() + bias
    vectors = StageVectors(query, lambda: item, scale, bias)
    return StageOutput({"click": z[REQUEST, ITEM]}, vectors), vectors, z.detach()[:, :4]


def corrected(z: float, share: float, candidates: int) -> float:
    return z / TERM.temperature - math.log(1 - (1 - share) ** candidates)


def test_a_clicked_item_against_all_that_its_request_did_not_click() -> None:
    output, vectors, z = towers()
    c = [[corrected(z[r, i].item(), SHARE[i], 6) for i in range(4)] for r in range(3)]
    first = [softplus(math.log(sum(math.exp(c[0][j]) for j in (2, 3))) - c[0][i]) for i in (0, 1)]
    second = softplus(math.log(sum(math.exp(c[1][j]) for j in (0, 2, 3))) - c[1][1])
    expected = (1 * first[0] + 2 * first[1] + 3 * second) / 6
    assert loss(TERM, {"prerank": output}, made()) == pytest.approx(expected, rel=1e-5)
    assert vectors.query.grad is not None and not grad_of(vectors.query)[2].any(), "a request without a click"
    assert (
        vectors.items().grad is not None
        and grad_of(vectors.items())[:4].any(1).all()
        and not grad_of(vectors.items())[4].any()
    )


def test_draws_beyond_the_log_are_no_negatives() -> None:
    output, vectors, z = towers()
    c = [corrected(z[1, i].item(), SHARE[i], 4) for i in range(4)]
    expected = softplus(math.log(sum(math.exp(c[j]) for j in (0, 2))) - c[1])
    candidates = made([-1, -1, -1, 1, -1, -1], [2, 2, 2, 2, BATCH, BATCH])
    assert loss(TERM, {"prerank": output}, candidates) == pytest.approx(expected, rel=1e-5)
    assert not grad_of(vectors.items())[3].any()


@pytest.mark.parametrize("level", [[2] * 6, [0] * 6])
def test_only_what_was_shown_and_clicked_is_a_positive(level: list[int]) -> None:
    output, vectors, _ = towers()
    assert loss(TERM, {"prerank": output}, made([0, -1] * 3 if level[0] else [1] * 6, level)) == 0
    assert not grad_of(vectors.query).any() and not grad_of(vectors.items()).any()


def test_a_request_that_clicked_every_item_learns_nothing_and_is_a_number() -> None:
    output, vectors, _ = towers()
    sides = rows(np.random.default_rng(0), 3, 1, 1)
    alone = batch(sides, np.array([1]), np.array([0]), np.array([2]), np.array([1]))
    assert loss(TERM, {"prerank": output}, alone) == 0
    assert not grad_of(vectors.query).any() and not grad_of(vectors.items()).any()


def test_towers_tell_what_their_logits_are_made_of() -> None:
    model = JointModel([TowersSettings(name="prerank", model="towers", value="click", keep=2)], LAYOUT)
    output = model(made())["prerank"]
    vectors = output.vectors
    assert vectors is not None
    pairs = vectors.scale * vectors.query @ vectors.items().t() + vectors.bias
    assert torch.allclose(pairs[REQUEST, ITEM], output.logits["click"], atol=1e-6)


def test_a_ranker_has_no_vectors() -> None:
    with pytest.raises(ConfigError, match=r"losses\.0\.stage: 'rank' has no vectors .* such as prerank"):
        InBatchLoss(kind="in_batch", stage="rank").check(SCOPE, "losses.0")
