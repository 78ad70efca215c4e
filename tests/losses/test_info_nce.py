import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from corank.batches.sampling import BATCH, CATALOGUE
from corank.core.errors import ConfigError
from corank.losses.info_nce import InfoNceLoss
from corank.testing.losses import SCOPE, loss, outputs, requests
from tests.support.loss_cases import gradient_of

Z = [0.5, -1.0, 2.0, 0.1, 0.7, -0.4]


def info_nce(**settings: Any) -> InfoNceLoss:
    return InfoNceLoss(**{"kind": "info_nce", "stage": "prerank"} | settings)


def by_hand(z: list[float], grade: list[int], margin: float, temperature: float = 1.0) -> float:
    """The formula as the docstring writes it."""
    by_grade: dict[int, list[float]] = {}
    for a, g in enumerate(grade):
        lower = [b for b in range(len(z)) if grade[b] < g]
        if lower:
            top = math.exp(z[a] / temperature)
            rest = sum(math.exp((z[b] + margin * (g - grade[b])) / temperature) for b in lower)
            by_grade.setdefault(g, []).append(-math.log(top / (top + rest)))
    means = [sum(terms) / len(terms) for terms in by_grade.values()]
    return sum(means) / len(means)


@pytest.mark.parametrize(("margin", "temperature"), [(0.0, 1.0), (0.7, 2.0)])
def test_each_level_leads_all_lower_ones_by_a_margin_that_grows(margin: float, temperature: float) -> None:
    made = requests([[2, 0, 2, 0, 1, 2], [], [1, 1], [0, 1]], weights=[1.0] * 6 + [7.0] * 2 + [3.0, 3.0])
    made.labels["click"][2] = 1
    z = outputs(prerank=[*Z, 9, 9, 0.2, -0.3])
    first = by_hand(Z, [2, 0, 3, 0, 1, 2], margin, temperature)
    expected = (first + 3 * by_hand([0.2, -0.3], [0, 1], margin, temperature)) / 4
    term = info_nce(margin=margin, temperature=temperature)
    assert loss(term, z, made) == pytest.approx(expected, rel=1e-5)
    gradient = gradient_of(z)
    assert gradient.isfinite().all() and gradient[2] < 0 and (gradient[[1, 3]] > 0).all()
    assert not gradient[6:8].any(), "a request of one level has nothing to compare"


def test_drawn_negatives_are_below_all_levels_and_of_one_grade() -> None:
    level = torch.tensor([2, 1, BATCH, CATALOGUE, 2, 0], dtype=torch.uint8)
    made = replace(requests([[2, 1, 0, 0, 2, 1]]), level=level)
    term = info_nce(on=["catalogue", "exposed", "batch", "kept"], per_request=9, margin=0.5)
    z = outputs(prerank=Z)
    assert loss(term, z, made) == pytest.approx(by_hand(Z[:5], [2, 1, 0, 0, 2], 0.5), rel=1e-5)
    assert gradient_of(z)[5] == 0, "a level that is not among `on`"


def test_an_unknown_label_is_no_click_and_no_negative_of_one() -> None:
    made = requests([[2, 2, 2]])
    made.labels["click"][:] = torch.tensor([1.0, 0.0, -1.0])
    z = outputs(prerank=Z[:3])
    assert loss(info_nce(on=["exposed"]), z, made) == pytest.approx(by_hand(Z[:2], [1, 0], 0), rel=1e-5)
    assert gradient_of(z)[2] == 0


def test_levels_that_say_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"losses\.3\.on: two levels are needed"):
        info_nce(on=["kept"]).check(SCOPE, "losses.3")
