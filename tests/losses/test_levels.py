import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from corank.core.errors import ConfigError
from corank.losses.base import FunnelSpec
from corank.losses.settings.levels import LevelsLoss
from tests.support.loss_cases import SCOPE, bce, log_softmax, loss, outputs, requests, sigmoid, softplus
from tests.support.models import grad_of

Z = [0.5, -1.0, 2.0, 0.1, 0.7]
LEVEL = [2, 0, 1, 0, 1]
Formula = Callable[[list[float], list[int]], float]


def levels(form: str, **settings: Any) -> LevelsLoss:
    return LevelsLoss(**{"kind": "levels", "stage": "prerank", "form": form} | settings)


def pairs(z: list[float], level: list[int]) -> list[tuple[int, int]]:
    return [(a, b) for a in range(len(z)) for b in range(len(z)) if level[a] > level[b]]


def ranknet(z: list[float], level: list[int]) -> float:
    losses = [softplus(z[b] - z[a]) for a, b in pairs(z, level)]
    return sum(losses) / len(losses)


def ndcg(z: list[float], level: list[int], gains: list[float] | None = None) -> float:
    place = {i: t for t, i in enumerate(sorted(range(len(z)), key=lambda i: -z[i]), start=1)}
    gain = [2.0**g - 1 if gains is None else gains[g] for g in level]
    best = sum(g / math.log2(1 + t) for t, g in enumerate(sorted(gain, reverse=True), start=1))
    total = 0.0
    for a, b in pairs(z, level):
        moved = abs(1 / math.log2(1 + place[a]) - 1 / math.log2(1 + place[b]))
        total += (gain[a] - gain[b]) * moved * softplus(z[b] - z[a])
    return float(total / best)


@pytest.mark.parametrize(("form", "formula"), [("ranknet", ranknet), ("lambda", ndcg)])
def test_a_deeper_candidate_stands_over_a_shallower_one(form: str, formula: Formula) -> None:
    made = requests([LEVEL, [], [1], [0, 0], [0, 1]], weights=[1.0] * 5 + [7.0] * 3 + [3.0, 3.0])
    z = outputs(prerank=[*Z, 9, 9, 9, 0.2, -0.3])
    halved = [x / 2 for x in Z]
    expected = (formula(halved, LEVEL) + 3 * formula([0.1, -0.15], [0, 1])) / 4
    assert loss(levels(form, temperature=2.0), z, made) == pytest.approx(expected, rel=1e-5)
    gradient = grad_of(z["prerank"].logits["click"])
    assert gradient[0] < 0 and (gradient[[1, 3]] > 0).all() and (gradient[5:8] == 0).all()


@pytest.mark.parametrize(("form", "formula"), [("ranknet", ranknet), ("lambda", ndcg)])
def test_only_levels_on_count_and_their_depth_is_among_them(form: str, formula: Formula) -> None:
    z = outputs(prerank=Z)
    value = loss(levels(form, on=["exposed", "kept"]), z, requests([LEVEL]))
    assert value == pytest.approx(formula([0.5, 2.0, 0.7], [1, 0, 0]), rel=1e-5)
    assert (grad_of(z["prerank"].logits["click"])[[1, 3]] == 0).all()


def test_levels_are_worth_what_gains_say() -> None:
    made = requests([LEVEL, [0, 1]], weights=[1.0] * 5 + [3.0, 3.0])
    z = outputs(prerank=[*Z, 0.2, -0.3])
    value = loss(levels("lambda", gains=[0, 0, 1]), z, made)
    assert value == pytest.approx(ndcg(Z, LEVEL, [0, 0, 1]), rel=1e-5), (
        "nothing of the second request is worth more"
    )
    assert (grad_of(z["prerank"].logits["click"])[5:] == 0).all()
    value = loss(levels("lambda", gains=[0.5, 1, 4]), outputs(prerank=Z), requests([LEVEL]))
    assert value == pytest.approx(ndcg(Z, LEVEL, [0.5, 1, 4]), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "ranknet", "gains": [0, 1, 2]}, "gains have no effect with form: ranknet"),
        ({"gains": [0, 2, 1]}, "never fall"),
        ({"gains": [1, 1, 1]}, "not all equal"),
        ({"gains": [-1, 0, 1]}, "greater than or equal to 0"),
    ],
)
def test_gains_that_order_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        levels(**{"form": "lambda"} | settings)


def test_a_gain_for_every_level() -> None:
    with pytest.raises(
        ConfigError, match=r"losses\.0\.gains: expected 2 numbers, one a level of kept, exposed"
    ):
        levels("lambda", on=["kept", "exposed"], gains=[0, 0, 1]).check(SCOPE, "losses.0")


def test_softmax_is_the_mean_over_the_positives() -> None:
    made = requests([LEVEL, [2, 2], [0, 1], []])
    z = outputs(prerank=[*Z, 5, 5, 5, 5])
    log_shares = log_softmax(Z)
    term = levels("softmax", positive=["exposed", "kept"])
    only = requests([LEVEL, [2, 2], [0, 0], []])
    assert loss(term, z, only) == pytest.approx(
        -(log_shares[0] + log_shares[2] + log_shares[4]) / 3, rel=1e-5
    )
    assert (grad_of(z["prerank"].logits["click"])[5:] == 0).all()
    assert loss(levels("softmax"), outputs(prerank=[*Z, 5, 5, 5, 5]), made) == pytest.approx(
        -log_shares[0], rel=1e-5
    )


def test_bce_takes_the_positive_levels_for_ones() -> None:
    made = requests([[2, 1, 0], [0]], weights=[1.0, 2, 1, 4])
    z = [0.5, -1.0, 2.0, 0.1]
    terms = [bce(sigmoid(x / 2), y) for x, y in zip(z, [1, 1, 0, 0], strict=True)]
    expected = (terms[0] + 2 * terms[1] + terms[2] + 4 * terms[3]) / 8
    term = levels("bce", positive=["kept", "exposed"], temperature=2.0)
    assert loss(term, outputs(prerank=z), made) == pytest.approx(expected, rel=1e-5)


def test_no_more_than_were_drawn_of_a_level() -> None:
    drawn = replace(requests([LEVEL]), draw_order=torch.tensor([0, 1, 0, 0, 1], dtype=torch.int32))
    z = outputs(prerank=Z)
    value = loss(levels("ranknet", per_request=1), z, drawn)
    assert value == pytest.approx(ranknet([0.5, 2.0, 0.1], [2, 1, 0]), rel=1e-5)


@pytest.mark.parametrize("form", ["ranknet", "lambda", "softmax", "bce"])
@pytest.mark.parametrize("given", [[[], []], [[1], [1, 1]]])
def test_with_nothing_to_compare_the_loss_is_zero_and_so_are_its_gradients(
    form: str, given: list[list[int]]
) -> None:
    z = outputs(prerank=[math.inf] * sum(map(len, given)))
    assert loss(levels(form, on=["cut", "exposed"]), z, requests(given)) == 0
    assert not grad_of(z["prerank"].logits["click"]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on": ["kept"]}, r"losses\.0\.on: two levels are needed"),
        ({"on": ["kept", "gone"]}, r"losses\.0\.on: no level 'gone'"),
        ({"on": ["cut", "batch"]}, r"losses\.0\.on: no level 'batch'"),
        ({"positive": ["cut", "kept", "exposed"]}, r"losses\.0\.positive: must be some, but not all"),
        ({"positive": ["cut"], "on": ["kept", "exposed"]}, r"losses\.0\.positive: must be some, but not all"),
        ({"stage": "recall"}, r"losses\.0\.stage: no stage 'recall'"),
    ],
)
def test_levels_that_say_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        levels("softmax", **settings).check(SCOPE, "losses.0")


def test_a_log_of_exposures_has_no_levels_to_compare() -> None:
    with pytest.raises(ConfigError, match=r"losses\.0\.on: the log has no levels"):
        levels("bce").check(FunnelSpec(SCOPE.levels, ["click"], SCOPE.stages, levelled=False), "losses.0")


def test_pairs_know_no_positive_levels() -> None:
    with pytest.raises(ValidationError, match="drop positive"):
        levels("lambda", positive=["exposed"])
