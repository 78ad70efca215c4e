"""`in_batch` against its formula; an item in the batch twice, as it was at two times, is one; items of ranks."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.batches.sampling import BATCH
from corank.core.errors import ConfigError
from corank.core.types import Floats
from corank.distributed.ranks import Ranks
from corank.losses.in_batch import BatchItems, InBatchLoss
from corank.models.stage_io import StageOutput, StageVectors
from corank.testing.batches import batch, rows
from corank.testing.losses import SCOPE, loss
from tests.support.cases import Case
from tests.support.loss_cases import softplus
from tests.support.models import grad_of
from tests.support.shared import case_in_parts
from tests.support.thread_ranks import run_ranks

TERM = InBatchLoss(kind="in_batch", stage="prerank", temperature=0.5)
REQUEST, ITEM = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 3, 3]
LEVEL, CLICK = [2, 2, 2, 2, 0, 2], [1, 1, 0, 1, -1, 0]
SHARE = [0.4, 0.3, 0.001, 0.05]
TWICE: tuple[list[float], list[int]] = ([0.4, 0.25, 0.25, 0.05], [0, 1, 1, 2])
"""Shares, and the item of each row: rows 1 and 2 are of one."""


def made(
    click: Sequence[int] = CLICK,
    level: Sequence[int] | None = LEVEL,
    request: Sequence[int] = REQUEST,
    item: Sequence[int] = ITEM,
    share: Sequence[float] = SHARE,
    ordinal: Sequence[int] = range(4),
) -> Batch:
    n = len(item)
    sides = rows(np.random.default_rng(0), max(request) + 1, len(share), n)
    levels = np.full(n, 2) if level is None else np.array(level)
    candidates = batch(sides, np.array(request), np.array(item), levels, np.array(click))
    weight = torch.tensor([1.0, 2, 1, 3, 1, 1, 1, 1][:n])
    return replace(candidates, share=torch.tensor(share), ordinal=torch.tensor(ordinal), weight=weight)


def towers(found: Batch, query: torch.Tensor, item: torch.Tensor) -> tuple[StageOutput, StageVectors]:
    """Towers' output and vectors, as leaves."""
    query, item = query.clone().requires_grad_(), item.clone().requires_grad_()
    scale, bias = torch.tensor(0.6, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    z = scale * (query[found.request_of] * item[found.item_of]).sum(1) + bias
    vectors = StageVectors(query, lambda: item, scale, bias)
    return StageOutput({"click": z}, vectors), vectors


def random_vectors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of three queries and four items, with a row more of padding."""
    torch.manual_seed(seed)
    return torch.randn(3, 8), torch.randn(5, 8)


def by_hand(
    vectors: StageVectors, share: Sequence[float], candidates: int, request: int, item: int, others: list[int]
) -> float:
    """The loss of a clicked item, against the rows of others."""
    z = (vectors.scale * vectors.query @ vectors.items().t() + vectors.bias).detach()[request]
    c = [
        x.item() / TERM.temperature - math.log(1 - (1 - s) ** candidates)
        for x, s in zip(z, share, strict=False)
    ]
    return softplus(math.log(sum(math.exp(c[j]) for j in others)) - c[item])


def test_a_clicked_item_against_all_that_its_request_did_not_click() -> None:
    output, vectors = towers(made(), *random_vectors())
    first, second = (by_hand(vectors, SHARE, 6, 0, item, [2, 3]) for item in (0, 1))
    third = by_hand(vectors, SHARE, 6, 1, 1, [0, 2, 3])
    expected = (first + 2 * second + 3 * third) / 6
    assert loss(TERM, {"prerank": output}, made()) == pytest.approx(expected, rel=1e-5)
    assert not grad_of(vectors.query)[2].any(), "a request without a click"
    assert grad_of(vectors.items())[:4].any(1).all() and not grad_of(vectors.items())[4].any()


def test_draws_beyond_the_log_are_no_negatives() -> None:
    candidates = made([-1, -1, -1, 1, -1, -1], [2, 2, 2, 2, BATCH, BATCH])
    output, vectors = towers(candidates, *random_vectors())
    expected = by_hand(vectors, SHARE, 4, 1, 1, [0, 2])
    assert loss(TERM, {"prerank": output}, candidates) == pytest.approx(expected, rel=1e-5)
    assert not grad_of(vectors.items())[3].any()


@pytest.mark.parametrize(
    "candidates",
    [made([0, -1] * 3, [2] * 6), made([1] * 6, [0] * 6), made([1], [2], [1], [0], [0.4], [0])],
    ids=["not clicked", "not shown", "every item clicked"],
)
def test_without_a_positive_or_a_negative_nothing_is_learnt(candidates: Batch) -> None:
    output, vectors = towers(candidates, *random_vectors())
    assert loss(TERM, {"prerank": output}, candidates) == 0
    assert not grad_of(vectors.query).any() and not grad_of(vectors.items()).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_two_rows_of_one_vector_are_as_one_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # row 0 everywhere; 1 and 2, one item, never in one request; each row somewhere
    request, item = [0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 3, 0, 2, 3, 0, int(rng.integers(1, 3))]
    click = rng.integers(0, 2, 8)
    click[rng.integers(8)] = 1
    query, vector = random_vectors(seed)
    vector[2] = vector[1]
    twice = made(click.tolist(), None, request, item, *TWICE)
    share = [TWICE[0][n] for n in (0, 1, 3)]
    once = made(click.tolist(), None, request, [TWICE[1][i] for i in item], share, range(3))
    our_output, ours = towers(twice, query, vector)
    their_output, theirs = towers(once, query, vector[[0, 1, 3]])
    value = loss(TERM, {"prerank": our_output}, twice)
    assert value == pytest.approx(loss(TERM, {"prerank": their_output}, once), rel=1e-5)
    first, one, other, last, _ = grad_of(ours.items())
    torch.testing.assert_close(torch.stack((first, one + other, last)), theirs.items().grad)
    torch.testing.assert_close(ours.query.grad, theirs.query.grad)
    for mine, their in ((ours.scale, theirs.scale), (ours.bias, theirs.bias)):
        torch.testing.assert_close(mine.grad, their.grad, rtol=1e-4, atol=1e-5)


def test_a_ranker_has_no_vectors() -> None:
    with pytest.raises(ConfigError, match=r"losses\.0\.stage: 'rank' has no vectors .* such as prerank"):
        InBatchLoss(kind="in_batch", stage="rank").check(SCOPE, "losses.0")


@pytest.fixture(scope="module")
def case() -> Case:
    return case_in_parts()


def vectors_of_items(case: Case, batch: Batch) -> dict[int, Floats]:
    """Item → the vector that stands for it."""
    with torch.no_grad():
        made = case.model(batch)["prerank"].vectors
        assert made is not None
        items = BatchItems.of(batch, made.items()[: len(batch.item_row)])
    chosen = items.vectors[items.item].numpy()
    return dict(zip(batch.ordinal.tolist(), chosen, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_take_the_vectors_that_one_takes_alone(case: Case, world: int) -> None:
    """Each item's is that of its earliest request in the whole batch."""

    def read(ranks: Ranks) -> list[Batch]:
        reader = Reader(
            case.packed, "train", 9, None, 5, ranks, attended=case.model.attended, sees_ranks=True
        )
        return list(reader.read_shuffled(1))

    def take(ranks: Ranks) -> list[dict[int, Floats]]:
        return [vectors_of_items(case, batch) for batch in read(ranks)]

    alone, parts = take(Ranks()), run_ranks(world, take)
    for n, whole in enumerate(alone):
        for part in parts:
            for item, vector in part[n].items():
                np.testing.assert_allclose(vector, whole[item], rtol=1e-4, atol=1e-5, err_msg=f"{n} {item}")
        assert {item for part in parts for item in part[n]} == set(whole)
    # else any candidate of an item would do
    differ = 0
    for one in read(Ranks()):
        snapshot, item_of = one.numbers["snapshot"].numpy(), one.item_of.numpy()
        differ += sum(len(np.unique(snapshot[item_of == n], axis=0)) > 1 for n in range(len(one.item_row)))
    assert differ > 3
