"""The losses of the lab: each against its formula, and by the contract of every loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from corank.core.errors import ConfigError
from corank.losses.base import LOSSES
from corank.losses.total import TotalLoss
from corank.testing.losses import (
    SCOPE,
    STAGES,
    learn_at_once,
    loss,
    made_of,
    outputs,
    requests,
    require_names_that_exist,
    require_zero_without_lists,
)
from tests.support.loss_cases import (
    LEVEL,
    Z,
    bce,
    gradient_of,
    missed,
    neural_sort,
    order_loss,
    sigmoid,
    softplus,
    survival,
)
from tests.support.models import grad_of

EXPOSED: dict[str, Any] = {"positive": ["exposed"]}
BCE: dict[str, Any] = {"kind": "levels_bce", "stage": "prerank", "on": ["cut", "exposed"]}
LEARNT = [EXPOSED | {"kind": "learnt_cascade", "form": form} for form in ("lcron", "arf", "arf_v2")]
CUTS = [EXPOSED | {"kind": "icc"}, EXPOSED | {"kind": "arf"}, *LEARNT]
"""Losses of the cuts of stages."""
EVERY: list[dict[str, Any]] = [
    BCE,
    EXPOSED | {"kind": "rankflow"},
    *CUTS,
    {"kind": "mimic", "stage": "prerank"},
]
LOG_VARIANCE = {"prerank": 0.7, "rank": -0.4, "rerank": 0.2}


def test_every_loss_is_here() -> None:
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("corank_lab.")}
    assert {values["kind"] for values in EVERY} == own


@pytest.mark.parametrize("values", EVERY, ids=lambda values: f"{values['kind']}-{values.get('form')}")
def test_every_loss_refuses_names_that_do_not_exist(values: dict[str, Any]) -> None:
    require_names_that_exist(values)


@pytest.mark.parametrize("values", [BCE, *CUTS], ids=lambda values: f"{values['kind']}-{values.get('form')}")
def test_a_loss_is_zero_without_lists(values: dict[str, Any]) -> None:
    require_zero_without_lists(values)


@pytest.mark.precision
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_stages_learn_from_every_loss_at_once(dtype: torch.dtype) -> None:
    learn_at_once([BCE | {"stage": "rank"}, EXPOSED | {"kind": "rankflow"}, *CUTS], dtype)


def test_bce_takes_the_positive_levels_for_ones() -> None:
    made = requests([[2, 1, 0], [0]], weights=[1.0, 2, 1, 4])
    z = [0.5, -1.0, 2.0, 0.1]
    terms = [bce(sigmoid(x / 2), y) for x, y in zip(z, [1, 1, 0, 0], strict=True)]
    term = made_of(BCE | {"positive": ["kept", "exposed"], "on": None, "temperature": 2.0})
    expected = (terms[0] + 2 * terms[1] + terms[2] + 4 * terms[3]) / 8
    assert loss(term, outputs(prerank=z), made) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match=r"losses\.0\.positive: must be some, but not all"):
        made_of(BCE | {"positive": ["cut", "exposed"]}).check(SCOPE, "losses.0")
    taught = {"kind": "distill", "teacher": "rank", "student": "prerank", "on": ["cut"]}
    with pytest.raises(ConfigError, match=r"candidates of level cut .* \(prerank\.levels_bce\)"):
        TotalLoss([made_of(taught), made_of(BCE)], SCOPE).check()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def flow(z: Mapping[str, list[float]], level: list[int], keep: Mapping[str, int], alpha: float) -> float:
    """RankFlow by hand."""
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
def test_rankflow_learns_from_the_log_and_from_the_successor(alpha: float) -> None:
    short = {stage: values[:2] for stage, values in Z.items()}
    z = outputs(**{stage: Z[stage] + short[stage] for stage in STAGES})
    term = made_of(EXPOSED | {"kind": "rankflow", "alpha": alpha})
    value = loss(term, z, requests([LEVEL, [], [2, 0]], weights=[1.0] * 5 + [3.0, 3.0]))
    expected = flow(Z, LEVEL, SCOPE.keep, alpha) + 3 * flow(short, [2, 0], SCOPE.keep, alpha)
    assert value == pytest.approx(expected / 4, rel=1e-5)
    # the pre-ranker passes 2, 4 and 0 on, the ranker of them 4 and 0
    assert gradient_of(z, "rerank")[:5].nonzero().flatten().tolist() == [0, 4]


def returned(
    z: Mapping[str, list[float]], stages: Sequence[str], keep: Mapping[str, int], tau: float
) -> list[float]:
    """F of ICC: the cascade's output, the last stage's score where a candidate gets that far."""
    n = len(z[stages[0]])
    result, reached = [0.0] * n, [1.0] * n
    for stage in stages:
        last = sorted(z[stage], reverse=True)[keep[stage] - 1] if n > keep[stage] else -math.inf
        for i, x in enumerate(z[stage]):
            kept = 0.0 if stage == stages[-1] else sigmoid((x - last) / tau) if n > keep[stage] else 1.0
            result[i] += reached[i] * (1 - kept) * x
            reached[i] *= kept
    return result


def lambda_loss(f: list[float], level: list[int]) -> float:
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
def test_icc_learns_the_order_that_the_cascade_returns(stages: Sequence[str]) -> None:
    """Of two requests and a short one: a stage that keeps all passes all on and learns nothing."""
    two = {stage: values[:2] for stage, values in Z.items()}
    z = outputs(**{stage: Z[stage] + two[stage] + [9.0] for stage in STAGES})
    term = made_of(EXPOSED | {"kind": "icc", "stages": list(reversed(stages)), "temperature": 1.3})
    made = requests([LEVEL, [2, 0], [2]], weights=[1.0] * 5 + [3.0, 3.0, 8.0])
    first, second = (
        lambda_loss(returned(part, stages, SCOPE.keep, 1.3), level)
        for part, level in ((Z, LEVEL), (two, [2, 0]))
    )
    cut = 3 * (len(stages) == 3)  # only the last stage cuts two candidates
    assert loss(term, z, made) == pytest.approx((first + cut * second) / (1 + cut), rel=1e-5)
    assert not gradient_of(z)[5:].any()
    for stage in STAGES:
        assert (z[stage].logits["click"].grad is not None) == (stage in stages)


def cut_loss(form: str, z: Mapping[str, list[float]], level: list[int], learnt: bool) -> float:
    """ARF, or a form with the weights of LOG_VARIANCE, of one request by hand, at a temperature of 1.3."""
    n, true = len(level), [int(one == 2) for one in level]
    product, total = [1.0] * n, 0.0
    for stage in STAGES:
        keep = SCOPE.keep[stage]
        if n <= keep:
            continue
        sigma = math.exp(LOG_VARIANCE[stage] / 2)
        up, whole = survival(z[stage], keep, 1.3), order_loss(z[stage], level, 1.3)
        product = [a * b for a, b in zip(product, up, strict=True)]
        weighed = missed(up, true) if form == "lcron" else whole / n
        total += weighed / (2 * sigma**2) + math.log(sigma) if learnt else whole
        if form == "arf_v2":
            total += missed(up, true)
        elif form == "arf":
            p = neural_sort(z[stage], 1.3)
            kept = [math.log(sum(p[t][i] for t in range(keep)) / keep) for i in range(n)]
            total -= sum(k * y for k, y in zip(kept, true, strict=True)) / (n if learnt else sum(true))
    return total + missed(product, true) if form == "lcron" else total


def test_arf_is_that_of_the_formula() -> None:
    two = {stage: values[:2] for stage, values in Z.items()}
    z = outputs(**{stage: Z[stage] + two[stage] for stage in STAGES})
    value = loss(made_of(EXPOSED | {"kind": "arf", "temperature": 1.3}), z, requests([LEVEL, [2, 0]]))
    expected = cut_loss("arf", Z, LEVEL, False) + cut_loss("arf", two, [2, 0], False)
    assert value == pytest.approx(expected / 2, rel=1e-4)


@pytest.mark.parametrize("values", LEARNT, ids=lambda values: str(values["form"]))
def test_learnt_weights_are_those_of_an_uncertainty(values: dict[str, Any]) -> None:
    """Of two requests, of which only the last stage cuts one: elsewhere the weight has no gradient there."""
    term, form = made_of(values | {"temperature": 1.3}), values["form"]
    assert list(term.parameters(SCOPE)) == list(STAGES)
    two = {stage: z[:2] for stage, z in Z.items()}
    numbers = {stage: torch.tensor(value, requires_grad=True) for stage, value in LOG_VARIANCE.items()}
    z = {
        stage: replace(one, loss_parameters={term.name: numbers[stage]})
        for stage, one in outputs(**{stage: Z[stage] + two[stage] for stage in STAGES}).items()
    }
    value = loss(term, z, requests([LEVEL, [2, 0]]))
    expected = cut_loss(form, Z, LEVEL, True) + cut_loss(form, two, [2, 0], True)
    assert value == pytest.approx(expected / 2, rel=1e-4)
    for stage, share in (("prerank", 0.5), ("rank", 0.5), ("rerank", 1.0)):
        # the gradient of log σ² is ½ − L / (2 σ²), L what is weighed
        assert grad_of(numbers[stage]).item() < 0.5 * share
