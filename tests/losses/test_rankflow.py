from typing import Any

import pytest
from pydantic import ValidationError

from corank.core.errors import ConfigError
from corank.losses.settings.rankflow import RankFlowLoss
from tests.support.loss_cases import SCOPE, STAGES, bce, loss, outputs, requests, sigmoid, softplus
from tests.support.models import grad_of

LEVEL = [0, 2, 1, 0, 2]
Z = {
    "prerank": [0.5, -1.0, 2.0, 0.1, 0.7],
    "rank": [0.2, 0.4, -0.3, 1.0, 0.6],
    "rerank": [-0.2, 0.9, 0.3, 0.0, 0.8],
}


def rankflow(**settings: Any) -> RankFlowLoss:
    return RankFlowLoss(**{"kind": "rankflow", "positive": ["exposed"]} | settings)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by_hand(z: dict[str, list[float]], level: list[int], keep: dict[str, int], alpha: float) -> float:
    total, mine = 0.0, list(range(len(level)))
    for stage, after in zip(STAGES, [*STAGES[1:], None], strict=True):
        total += mean([bce(sigmoid(z[stage][i]), int(level[i] == 2)) for i in mine])
        if after is None:
            break
        best = sorted(mine, key=lambda i: -z[after][i])[: keep[after]]
        rest = [i for i in mine if i not in best]
        if rest:
            total += alpha * softplus(mean([z[stage][i] for i in rest]) - mean([z[stage][i] for i in best]))
        total += (1 - alpha) * mean([(z[stage][i] - z[after][i]) ** 2 for i in mine])
        mine = sorted(mine, key=lambda i: -z[stage][i])[: keep[stage]]
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_each_stage_learns_what_it_gets_from_the_log_and_from_its_successor(alpha: float) -> None:
    z = outputs(**Z)
    value = loss(rankflow(alpha=alpha), z, requests([LEVEL]))
    assert value == pytest.approx(by_hand(Z, LEVEL, dict(SCOPE.keep), alpha), rel=1e-5)
    # the pre-ranker passes 2, 4 and 0 on, the ranker of them 4 and 0
    assert grad_of(z["rerank"].logits["click"]).nonzero().flatten().tolist() == [0, 4]


def test_requests_of_all_lengths_each_by_itself_weighted_by_the_log() -> None:
    short = {stage: values[:2] for stage, values in Z.items()}
    z = outputs(**{stage: Z[stage] + short[stage] for stage in STAGES})
    made = requests([LEVEL, [], [2, 0]], weights=[1.0] * 5 + [3.0, 3.0])
    expected = by_hand(Z, LEVEL, dict(SCOPE.keep), 0.5), by_hand(short, [2, 0], dict(SCOPE.keep), 0.5)
    assert loss(rankflow(), z, made) == pytest.approx((expected[0] + 3 * expected[1]) / 4, rel=1e-5)


def test_stages_and_top_as_for_every_loss_of_the_funnel() -> None:
    z = outputs(**Z)
    value = loss(rankflow(top=2, on=["cut", "exposed"]), z, requests([LEVEL]))
    picked = {stage: [values[i] for i in (0, 1, 3, 4)] for stage, values in Z.items()}
    assert value == pytest.approx(by_hand(picked, [0, 2, 0, 2], dict.fromkeys(STAGES, 2), 0.5), rel=1e-5)
    z = outputs(**Z)
    alone = mean([bce(sigmoid(x), int(y == 2)) for x, y in zip(Z["rank"], LEVEL, strict=True)])
    assert loss(rankflow(stages=["rank"]), z, requests([LEVEL])) == pytest.approx(alone, rel=1e-5)
    assert z["prerank"].logits["click"].grad is None and z["rerank"].logits["click"].grad is None


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"losses\.0\.stages: no stage 'recall'"):
        rankflow(stages=["recall"]).check(SCOPE, "losses.0")
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        rankflow(alpha=1.5)
