import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from corank.core.errors import ConfigError
from corank.losses.cascade import CascadeLoss
from corank.testing.losses import SCOPE, STAGES, loss, outputs, requests
from tests.support.loss_cases import LEVEL, Z, gradient_of, missed, order_loss, sigmoid, survival

FORMS = ["lcron", "arf_v2", "dftopk"]
Z_FOUR = {"prerank": [0.3, 0.1, -0.2, 0.6], "rank": [0.4, 0.9, 0.2, -0.5], "rerank": [0.6, -0.1, 0.4, 0.2]}


def cascade(form: str, **settings: Any) -> CascadeLoss:
    return CascadeLoss(**{"kind": "cascade", "form": form, "positive": ["exposed"]} | settings)


def by_hand(
    form: str,
    z: Mapping[str, list[float]],
    level: list[int],
    stages: Sequence[str] = STAGES,
    temperature: float = 1.0,
    keep: Mapping[str, int] = SCOPE.keep,
) -> float:
    """Of one request; a stage that keeps all lets all survive."""
    true = [int(one == 2) for one in level]
    product, total = [1.0] * len(level), 0.0
    for stage in stages:
        quota, scores = keep[stage], z[stage]
        if len(level) <= quota:
            continue
        if form == "dftopk":
            ranked = sorted(scores, reverse=True)
            middle = (ranked[quota - 1] + ranked[quota]) / 2
            up = [sigmoid((x - middle) / temperature) for x in scores]
        else:
            up = survival(scores, quota, temperature)
        product = [a * b for a, b in zip(product, up, strict=True)]
        total += missed(up, true) * (0.5 if form == "lcron" else 1)
        if form == "arf_v2":
            total += order_loss(scores, level, temperature)
    return total if form == "arf_v2" else total + missed(product, true)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stages", [STAGES, STAGES[:2], STAGES[:1]])
def test_the_loss_is_that_of_the_formula(form: str, stages: Sequence[str]) -> None:
    z = outputs(**Z)
    value = loss(cascade(form, stages=list(stages), temperature=1.3), z, requests([LEVEL]))
    assert value == pytest.approx(by_hand(form, Z, LEVEL, stages, 1.3), rel=1e-4)
    for stage in STAGES:
        assert (z[stage].logits["click"].grad is not None) == (stage in stages)


@pytest.mark.parametrize("form", FORMS)
def test_top_takes_the_place_of_every_quota_and_only_drawn_candidates_of_levels_on_compete(form: str) -> None:
    z = outputs(**{stage: [*values, 2.2, -1.4] for stage, values in Z.items()})
    order = torch.tensor([0, 1, 0, 1, 0, 2, 1], dtype=torch.int32)
    made = replace(requests([[*LEVEL, 0, 1]]), draw_order=order)
    four = {stage: [values[i] for i in (0, 1, 3, 4)] for stage, values in Z.items()}
    term = cascade(form, on=["cut", "exposed"], per_request=2, top=2)
    expected = by_hand(form, four, [0, 2, 0, 2], keep=dict.fromkeys(STAGES, 2))
    assert loss(term, z, made) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_requests_of_all_lengths_each_by_itself_weighted_by_the_log(form: str) -> None:
    """Of five, four, three and two candidates; then one and none, and five without a positive."""
    parts = [
        Z,
        Z_FOUR,
        {stage: z[:3] for stage, z in Z_FOUR.items()},
        {stage: [0.5, 0.2] for stage in STAGES},
    ]
    levels = [LEVEL, [2, 0, 1, 0], [0, 2, 1], [2, 1], [2], [], [0, 1, 1, 0, 0]]
    weights = [1.0] * 5 + [2.0] * 4 + [1.0, 2, 3] + [8.0] * 8
    z = outputs(**{s: [x for part in parts for x in part[s]] + [0.4, *Z[s]] for s in STAGES})
    expected = [by_hand(form, part, level) for part, level in zip(parts, levels, strict=False)]
    total = sum(w * one for w, one in zip([1, 2, 2, 8], expected, strict=True))
    assert loss(cascade(form), z, requests(levels, weights)) == pytest.approx(total / 13, rel=1e-4)
    for stage, cut in (("prerank", 9), ("rank", 12), ("rerank", 14)):
        gradient = gradient_of(z, stage)
        assert gradient[cut - 2 : cut].any() and not gradient[cut:].any(), (
            "later ones pass its quota, or have no 1"
        )


@pytest.mark.parametrize("form", FORMS)
def test_far_off_scores_still_pull_the_right_way(form: str) -> None:
    z = outputs(**{stage: [-8.0, 1.0, 2.0, 3.0, 8.0] for stage in STAGES})
    assert math.isfinite(loss(cascade(form), z, requests([[2, 0, 0, 0, 0]])))
    for stage in STAGES:
        gradient = gradient_of(z, stage)
        assert gradient.isfinite().all() and gradient[0] < 0


def test_positives_are_some_of_those_that_compete() -> None:
    with pytest.raises(ConfigError, match=r"losses\.0\.positive: every candidate would be one"):
        cascade("lcron", positive=["cut", "kept", "exposed"]).check(SCOPE, "losses.0")
    with pytest.raises(ValidationError, match="positive must be among on"):
        cascade("lcron", on=["cut", "kept"])
