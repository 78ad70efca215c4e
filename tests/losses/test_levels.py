import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from corank.core.errors import ConfigError
from corank.losses.base import FunnelSpec
from corank.losses.levels import LevelsLoss
from corank.testing.losses import SCOPE, loss, outputs, requests
from tests.support.loss_cases import gradient_of, log_softmax, softplus

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
def test_a_deeper_candidate_leads_a_shallower_one(form: str, formula: Formula) -> None:
    made = requests([LEVEL, [], [1], [0, 0], [0, 1]], weights=[1.0] * 5 + [7.0] * 3 + [3.0, 3.0])
    z = outputs(prerank=[*Z, 9, 9, 9, 0.2, -0.3])
    halved = [x / 2 for x in Z]
    expected = (formula(halved, LEVEL) + 3 * formula([0.1, -0.15], [0, 1])) / 4
    assert loss(levels(form, temperature=2.0), z, made) == pytest.approx(expected, rel=1e-5)
    gradient = gradient_of(z)
    assert gradient[0] < 0 and (gradient[[1, 3]] > 0).all() and not gradient[5:8].any()


@pytest.mark.parametrize(("form", "formula"), [("ranknet", ranknet), ("lambda", ndcg)])
def test_only_drawn_candidates_of_levels_on_count_and_their_depth_is_among_them(
    form: str, formula: Formula
) -> None:
    z = outputs(prerank=[*Z, 3.0])
    made = replace(requests([[*LEVEL, 1]]), draw_order=torch.tensor([0, 0, 0, 1, 1, 2], dtype=torch.int32))
    value = loss(levels(form, on=["exposed", "kept"], per_request=2), z, made)
    assert value == pytest.approx(formula([0.5, 2.0, 0.7], [1, 0, 0]), rel=1e-5)
    assert not gradient_of(z)[[1, 3, 5]].any()


def test_levels_are_worth_what_gains_say() -> None:
    made = requests([LEVEL, [0, 1]])
    z = outputs(prerank=[*Z, 0.2, -0.3])
    value = loss(levels("lambda", gains=[0, 0, 1]), z, made)
    assert value == pytest.approx(ndcg(Z, LEVEL, [0, 0, 1]), rel=1e-5), "the second request has no pair"
    assert not gradient_of(z)[5:].any()
    value = loss(levels("lambda", gains=[0.5, 1, 4]), outputs(prerank=Z), requests([LEVEL]))
    assert value == pytest.approx(ndcg(Z, LEVEL, [0.5, 1, 4]), rel=1e-5)


def test_softmax_is_the_mean_over_the_positives() -> None:
    made = requests([LEVEL, [2, 2], [0, 0], []])
    z = outputs(prerank=[*Z, 5, 5, 5, 5])
    shares = log_softmax(Z)
    three = loss(levels("softmax", positive=["exposed", "kept"]), z, made)
    assert three == pytest.approx(-(shares[0] + shares[2] + shares[4]) / 3, rel=1e-5)
    assert not gradient_of(z)[5:].any()
    assert loss(levels("softmax"), outputs(prerank=[*Z, 5, 5, 5, 5]), made) == pytest.approx(
        -shares[0], rel=1e-5
    )


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        ("ranknet", {"gains": [0, 1, 2]}, "gains have no effect with form: ranknet"),
        ("lambda", {"gains": [0, 2, 1]}, "never fall"),
    ],
)
def test_settings_that_contradict_the_form_are_refused(
    form: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        levels(form, **settings)


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        ("lambda", {"on": ["kept", "exposed"], "gains": [0, 0, 1]}, "gains: expected 2 numbers, one a level"),
        ("softmax", {"on": ["kept"]}, "on: two levels are needed"),
        ("softmax", {"positive": ["cut", "kept", "exposed"]}, "positive: must be some, but not all"),
    ],
)
def test_levels_that_say_nothing_are_refused(form: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"losses\.0\.{message}"):
        levels(form, **settings).check(SCOPE, "losses.0")


def test_a_log_of_exposures_has_no_levels_to_compare() -> None:
    exposures = FunnelSpec(SCOPE.levels, ["click"], SCOPE.stages, levelled=False)
    with pytest.raises(ConfigError, match=r"losses\.0\.on: the log has no levels"):
        levels("softmax").check(exposures, "losses.0")
