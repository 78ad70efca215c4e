import math
from collections.abc import Sequence
from typing import Any

import pytest

from corank.losses.settings.cascade import CascadeLoss
from tests.support.loss_cases import SCOPE, STAGES, loss, outputs, requests, sigmoid, softplus
from tests.support.models import grad_of

LEVEL = [0, 2, 1, 0, 2]
Z = {
    "prerank": [0.5, -1.0, 2.0, 0.1, 0.7],
    "rank": [0.2, 0.4, -0.3, 1.0, 0.6],
    "rerank": [-0.2, 0.9, 0.3, 0.0, 0.8],
}


def icc(**settings: Any) -> CascadeLoss:
    return CascadeLoss(**{"kind": "cascade", "form": "icc", "positive": ["exposed"]} | settings)


def result(z: dict[str, list[float]], stages: Sequence[str], keep: dict[str, int], tau: float) -> list[float]:
    """F: the cascade's output, the last stage's score where a candidate gets that far."""
    n = len(z[stages[0]])
    returned, reached = [0.0] * n, [1.0] * n
    for stage in stages:
        last = sorted(z[stage], reverse=True)[keep[stage] - 1] if n > keep[stage] else -math.inf
        for i, x in enumerate(z[stage]):
            kept = 0.0 if stage == stages[-1] else sigmoid((x - last) / tau) if n > keep[stage] else 1.0
            returned[i] += reached[i] * (1 - kept) * x
            reached[i] *= kept
    return returned


def by_hand(f: list[float], level: list[int]) -> float:
    place = {i: t for t, i in enumerate(sorted(range(len(f)), key=lambda i: -f[i]), start=1)}
    true = [i for i in place if level[i] == 2]
    total = sum(
        abs(1 / math.log2(1 + place[a]) - 1 / math.log2(1 + place[b])) * softplus(f[b] - f[a])
        for a in true
        for b in place
        if level[b] != 2
    )
    return total / sum(1 / math.log2(1 + t) for t in range(1, len(true) + 1))


@pytest.mark.parametrize("stages", [STAGES, STAGES[:2], STAGES[:1]])
def test_the_order_that_the_cascade_returns_is_learnt(stages: Sequence[str]) -> None:
    keep = dict(SCOPE.keep)
    z = outputs(**Z)
    value = loss(icc(stages=list(reversed(stages)), temperature=1.3), z, requests([LEVEL]))
    assert value == pytest.approx(by_hand(result(Z, stages, keep, 1.3), LEVEL), rel=1e-5)
    for stage in STAGES:
        assert (z[stage].logits["click"].grad is not None) == (stage in stages)


def test_a_stage_that_keeps_all_passes_all_on_and_learns_nothing() -> None:
    two = {stage: values[:2] for stage, values in Z.items()}
    z = outputs(**{stage: Z[stage] + two[stage] + [9.0] for stage in STAGES})
    value = loss(icc(), z, requests([LEVEL, [2, 0], [2]], weights=[1.0] * 5 + [3.0, 3.0, 8.0]))
    expected = by_hand(result(Z, STAGES, dict(SCOPE.keep), 1.0), LEVEL)
    short = by_hand(result(two, STAGES, dict(SCOPE.keep), 1.0), [2, 0])
    assert value == pytest.approx((expected + 3 * short) / 4, rel=1e-5)
    assert not grad_of(z["prerank"].logits["click"])[5:].any()
    assert (
        grad_of(z["rerank"].logits["click"])[5:7].all() and not grad_of(z["rerank"].logits["click"])[7:].any()
    )


def test_a_stage_learns_the_order_as_far_as_its_own_score_decides_it() -> None:
    """The pre-ranker's shares are constants: passing all on teaches it nothing, whatever the ranker scores."""
    z = outputs(prerank=[90.0, 80.0, 70.0, -5.0], rank=[1.0, 2.0, 3.0, 4.0])
    loss(icc(stages=["prerank", "rank"], top=3, temperature=0.1), z, requests([[2, 0, 0, 0]]))
    prerank, rank = (grad_of(z[stage].logits["click"]).tolist() for stage in ("prerank", "rank"))
    assert prerank[:2] == [0, 0] and rank[0] < 0 < rank[1]
    assert prerank[2] > 0, "half of the last that is kept"
    assert rank[3] == 0 and prerank[3] > 0


def test_only_levels_on_compete_within_top() -> None:
    z = outputs(**Z)
    value = loss(icc(on=["cut", "exposed"], top=2), z, requests([LEVEL]))
    picked = {stage: [values[i] for i in (0, 1, 3, 4)] for stage, values in Z.items()}
    expected = by_hand(result(picked, STAGES, dict.fromkeys(STAGES, 2), 1.0), [0, 2, 0, 2])
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("given", [[[], []], [[2], [0]], [[0, 0, 1, 1, 0]], [[2, 2, 2, 2, 2]]])
def test_with_nothing_to_compare_the_loss_is_zero_and_so_are_its_gradients(given: list[list[int]]) -> None:
    z = outputs(**dict.fromkeys(STAGES, [0.5] * sum(map(len, given))))
    assert loss(icc(), z, requests(given)) == 0
    assert not any(grad_of(z[stage].logits["click"]).any() for stage in STAGES)
