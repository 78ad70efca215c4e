"""`in_batch` where one item stands in the batch twice, as it was at two times: it is one item."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.batches.batch import Batch
from corank.batches.sampling import BATCH
from corank.losses.settings.in_batch import InBatchLoss
from corank.models.stage_io import StageOutput, StageVectors
from tests.support.encoded_batches import batch, rows
from tests.support.loss_cases import loss, softplus
from tests.support.models import grad_of

TERM = InBatchLoss(kind="in_batch", stage="prerank")
SHARE = [0.4, 0.25, 0.25, 0.05]
ITEM_OF_ROW = [0, 1, 1, 2]
"""Rows 1 and 2 are of one item."""


def made(request: list[int], item: list[int], click: list[int], level: list[int] | None = None) -> Batch:
    _, item_of = np.unique(item, return_inverse=True)
    n, items = len(item), int(item_of.max()) + 1
    assert items == max(item) + 1
    sides = rows(np.random.default_rng(0), max(request) + 1, items, n)
    levels = np.full(n, 2) if level is None else np.array(level)
    return batch(sides, np.array(request), item_of, levels, np.array(click))


def dots(found: Batch, query: torch.Tensor, item: torch.Tensor) -> tuple[StageOutput, StageVectors]:
    query, item = query.clone().requires_grad_(), item.clone().requires_grad_()
    scale, bias = torch.tensor(0.8, requires_grad=True), torch.tensor(-0.2, requires_grad=True)
    pairs = scale * (query[found.request_of] * item[found.item_of]).sum(1) + bias
    vectors = StageVectors(query, lambda: item, scale, bias)
    return StageOutput({"click": pairs}, vectors), vectors


def doubled(request: list[int], item: list[int], click: list[int], level: list[int] | None = None) -> Batch:
    candidates = made(request, item, click, level)
    return replace(candidates, share=torch.tensor(SHARE), ordinal=torch.tensor(ITEM_OF_ROW))


def vectors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(3, 5), torch.randn(4, 5)


REQUEST, ITEM = [0, 0, 1, 1, 2], [1, 0, 2, 3, 0]


@pytest.mark.parametrize("clicked", [0, 2])
def test_a_clicked_item_is_no_negative_of_its_other_row(clicked: int) -> None:
    """By hand: only the other items are negatives, each with the vector of its first row."""
    click = [int(n == clicked) for n in range(5)]
    candidates = doubled(REQUEST, ITEM, click)
    output, towers = dots(candidates, *vectors())
    z = (towers.scale * towers.query @ towers.items().t() + towers.bias).detach()
    p = [1 - (1 - share) ** 5 for share in SHARE]
    r = REQUEST[clicked]
    others = math.log(sum(math.exp(z[r, j].item()) / p[j] for j in (0, 3)))
    own = z[r, ITEM[clicked]].item() - math.log(p[1])
    assert loss(TERM, {"prerank": output}, candidates) == pytest.approx(softplus(others - own), rel=1e-5)
    gradient = towers.items().grad
    assert gradient is not None and gradient[[0, 3]].any(1).all()
    assert gradient[1:3].any(1).tolist() == [clicked == 0, clicked == 2], "nothing pushes its other row"


def test_as_a_negative_it_counts_once() -> None:
    candidates = doubled(REQUEST, ITEM, [0, 1, 0, 0, 0])
    output, towers = dots(candidates, *vectors())
    z = (towers.scale * towers.query @ towers.items().t() + towers.bias).detach()
    p = [1 - (1 - share) ** 5 for share in SHARE]
    others = math.log(sum(math.exp(z[0, j].item()) / p[j] for j in (1, 3)))
    expected = softplus(others - z[0, 0].item() + math.log(p[0]))
    assert loss(TERM, {"prerank": output}, candidates) == pytest.approx(expected, rel=1e-5)
    assert not grad_of(towers.items())[2].any() and grad_of(towers.items())[1].any()


def test_an_item_whose_first_row_was_only_drawn_is_still_of_the_log() -> None:
    """Its row 1 is there by a draw beyond the log, its row 2 was a candidate: it is a negative."""
    level = [BATCH, 2, 2, 2, 2]
    candidates = doubled(REQUEST, ITEM, [-1, 1, 0, 0, 0], level)
    output, towers = dots(candidates, *vectors())
    z = (towers.scale * towers.query @ towers.items().t() + towers.bias).detach()
    p = [1 - (1 - share) ** 4 for share in SHARE]
    others = math.log(sum(math.exp(z[0, j].item()) / p[j] for j in (1, 3)))
    expected = softplus(others - z[0, 0].item() + math.log(p[0]))
    assert loss(TERM, {"prerank": output}, candidates) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_two_rows_of_one_vector_are_as_one_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # row 0 everywhere; 1 and 2, one item, never in one request; each row somewhere
    request, item = [0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 3, 0, 2, 3, 0, int(rng.integers(1, 3))]
    click = rng.integers(0, 2, 8)
    click[rng.integers(8)] = 1
    query, vector = vectors(seed)
    vector[2] = vector[1]
    twice = doubled(request, item, click.tolist())
    once = made(request, [ITEM_OF_ROW[i] for i in item], click.tolist())
    once = replace(once, share=torch.tensor([SHARE[0], SHARE[1], SHARE[3]]))
    our_output, ours = dots(twice, query, vector)
    their_output, theirs = dots(once, query, vector[[0, 1, 3]])
    value = loss(TERM, {"prerank": our_output}, twice)
    assert value == pytest.approx(loss(TERM, {"prerank": their_output}, once), rel=1e-5)
    merged = torch.stack(
        (
            grad_of(ours.items())[0],
            grad_of(ours.items())[1] + grad_of(ours.items())[2],
            grad_of(ours.items())[3],
        )
    )
    torch.testing.assert_close(merged, theirs.items().grad)
    torch.testing.assert_close(ours.query.grad, theirs.query.grad)
    for one, other in ((ours.scale, theirs.scale), (ours.bias, theirs.bias)):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_untold_of_it_the_loss_takes_the_other_row_for_a_negative() -> None:
    candidates = doubled(REQUEST, ITEM, [1, 0, 0, 0, 0])
    query, vector = vectors()
    output, towers = dots(candidates, query, vector)
    deduplicated = loss(TERM, {"prerank": output}, candidates)
    output, towers = dots(candidates, query, vector)
    assert loss(TERM, {"prerank": output}, replace(candidates, ordinal=torch.arange(4))) > deduplicated + 0.1
    assert grad_of(towers.items())[2].any()
