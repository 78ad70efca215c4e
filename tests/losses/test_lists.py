"""Losses over the labels of a request's exposed candidates, against loops in float64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from corank.batches.batch import Batch
from corank.batches.sampling import MixedCounts, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.lists import LabelListLoss
from corank.testing.losses import LEVELS, loss, output, outputs, requests
from tests.support.loss_cases import softplus

FUNNEL = FunnelSpec(LEVELS, ["click", "order"], {"prerank": ["click"], "rank": ["click", "order"]})
EXPOSED = 2
Candidate = tuple[float, int, int, int]
"""Logit, level, click, order."""
Formula = Callable[[list[float], list[float]], float]
"""(logits, gains of a list) → its loss."""


def term(kind: str, **changes: Any) -> LabelListLoss:
    made = LOSSES[kind](**{"kind": kind, "stage": "rank"} | changes)
    assert isinstance(made, LabelListLoss)
    return made


def listwise(z: list[float], gains: list[float]) -> float:
    total = math.log(sum(math.exp(x) for x in z))
    return -sum(g * (x - total) for x, g in zip(z, gains, strict=True)) / sum(gains)


def pairwise(z: list[float], gains: list[float]) -> float:
    pairs = [(a, b) for a in range(len(z)) for b in range(len(z)) if gains[a] > gains[b]]
    over = sum((gains[a] - gains[b]) * softplus(z[b] - z[a]) for a, b in pairs)
    return over / sum(gains[a] - gains[b] for a, b in pairs)


FORMULAS: dict[str, Formula] = {"listwise": listwise, "pairwise": pairwise}


def batch_of(lists: Sequence[Sequence[Candidate]], weights: Sequence[float] | None = None) -> Batch:
    """A batch of requests with both labels."""
    made = requests([[level for _, level, _, _ in one] for one in lists], weights)
    rows = [row for one in lists for row in one]
    labels = {n: torch.tensor([float(r[2 + at]) for r in rows]) for at, n in enumerate(("click", "order"))}
    return replace(made, labels=labels)


def gain_of(candidate: Candidate, gains: Sequence[float]) -> float | None:
    """The gain of a candidate by [order, click]; None where its grade is unknown."""
    _, level, click, order = candidate
    if level != EXPOSED or (order != 1 and (click == -1 or (click == 1 and order == -1))):
        return None
    return gains[0] if order == 1 else gains[1] if click == 1 else 0.0


candidates = st.tuples(
    st.floats(-3, 3, width=32), st.sampled_from([0, 2, 2, 2]), st.integers(-1, 1), st.integers(-1, 1)
)


@pytest.mark.parametrize("kind", FORMULAS)
@settings(max_examples=60, deadline=None)
@given(lists=st.lists(st.lists(candidates, max_size=6), min_size=1, max_size=5), chosen=st.booleans())
def test_loss_is_the_weighted_mean_over_lists_with_a_pair(
    kind: str, lists: list[list[Candidate]], chosen: bool
) -> None:
    gains = [5.0, 1.5] if chosen else [3.0, 1.0]
    made = term(kind, labels=["order", "click"], temperature=2.0, **({"gains": gains} if chosen else {}))
    rows = [row for one in lists for row in one]
    weights = [0.5 + n % 3 for n in range(len(rows))]
    over = under = 0.0
    at = 0
    for one in lists:
        known = [(row, gain_of(row, gains), weights[at + n]) for n, row in enumerate(one)]
        kept = [(row[0] / 2, gain, weight) for row, gain, weight in known if gain is not None]
        at += len(one)
        if len({gain for _, gain, _ in kept}) > 1:
            weight = sum(weight for *_, weight in kept) / len(kept)
            over += weight * FORMULAS[kind]([z for z, *_ in kept], [gain for _, gain, _ in kept])
            under += weight
    value = loss(made, outputs(rank=[row[0] for row in rows]), batch_of(lists, weights), FUNNEL)
    assert value == pytest.approx(over / under if under else 0, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", FORMULAS)
def test_what_a_position_explains_is_left_out_of_the_logit(kind: str) -> None:
    z, effect = [0.5, -0.5, 0.1], torch.tensor([1.0, 0.0, -1.0])
    lists = [[(x, 2, y, -1) for x, y in zip(z, [1, 0, 0], strict=True)]]
    placed = {"rank": replace(output(torch.tensor(z)), positions={"click": effect})}
    moved = outputs(rank=[x + float(p) for x, p in zip(z, effect, strict=True)])
    batch = batch_of(lists)
    assert loss(term(kind), placed, batch, FUNNEL) == pytest.approx(loss(term(kind), moved, batch, FUNNEL))


def test_it_learns_from_requests_with_both_a_click_and_none() -> None:
    mixed = {"click": MixedCounts(3, 4, 10), "order": MixedCounts(1, 1, 12)}
    counts = SplitCounts(9, [{}, {}, {}], {}, mixed, {})
    assert term("listwise").targets(counts, FUNNEL) == Targets(14, 4, 10)
    assert term("pairwise", labels=["order"]).targets(counts, FUNNEL) == Targets(13, 1, 12)
    both = term("pairwise", labels=["order", "click"])
    assert both.targets(counts, FUNNEL) == Targets(14, 4, 12)
    assert both.gain_of_grade == [0, 1, 3] and both.population(FUNNEL) == {EXPOSED: None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["order", "order"]}, "labels: each label once; received order, order"),
        ({"gains": [2.0]}, "gains: with a single label they change nothing"),
        (
            {"labels": ["order", "click"], "gains": [1.0, 2.0]},
            "gains: expected 2 falling numbers, one a label",
        ),
    ],
)
def test_settings_that_say_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        term("pairwise", **changes)


def test_a_label_that_the_log_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"losses\.0\.labels: no .* 'like'; data.labels are click, order"):
        term("pairwise", labels=["like", "click"]).check(FUNNEL, "losses.0")
