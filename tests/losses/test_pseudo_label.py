"""Pseudo-labels of an ensemble, against the formula written out, and settings that are refused."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from corank.core.errors import ConfigError
from corank.losses.settings.pseudo_label import PseudoLabelLoss
from corank.losses.settings.unexposed import UnexposedLoss
from corank.losses.total import TotalLoss
from corank.models.stage_io import StageOutput
from tests.support.loss_cases import SCOPE, bce, loss, outputs, requests, sigmoid
from tests.support.models import grad_of

MEMBERS = replace(SCOPE, members={"rank": 2})


def pseudo(*ensemble: str, **changes: Any) -> PseudoLabelLoss:
    values = {"kind": "pseudo_label", "ensemble": list(ensemble), "student": "prerank", "on": ["cut", "kept"]}
    return PseudoLabelLoss.model_validate(values | changes)


def expected(student: list[float], teachers: list[list[float]], weights: list[float], beta: float) -> float:
    total = weighed = 0.0
    for z, said, weight in zip(student, teachers, weights, strict=True):
        w = weight * math.exp(-beta * float(np.std(said)))
        total += w * bce(sigmoid(z), float(np.mean([sigmoid(x) for x in said])))
        weighed += w
    return total / weighed


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_the_mean_of_an_ensemble_teaches_less_where_it_disagrees(beta: float) -> None:
    made = requests([[0, 1, 2], [0, 0]], weights=[1.0, 2, 5, 3, 1])
    student, rank, rerank = [0.5, -1, 9, 0.1, 2], [-3.0, -2, 9, 1, 0], [-1.0, -2, -9, -4, 0]
    z = outputs(prerank=student, rank=rank, rerank=rerank)
    scores = torch.tensor([-2.0, 0, 9, 1, math.nan])  # the last candidate has no score, and is left out
    value = loss(
        pseudo("rank", "rerank", "production", beta=beta), z, replace(made, scores={"production": scores})
    )
    said = [[rank[i], rerank[i], float(scores[i])] for i in (0, 1, 3)]
    assert value == pytest.approx(expected([student[i] for i in (0, 1, 3)], said, [1, 2, 3], beta), rel=1e-5)
    assert z["rank"].logits["click"].grad is None and z["rerank"].logits["click"].grad is None
    gradient = grad_of(z["prerank"].logits["click"])
    assert gradient[[0, 1, 3]].all() and not gradient[[2, 4]].any()


def test_members_are_predictions() -> None:
    made, student = requests([[0, 1, 1]]), [0.5, -1.0, 0.3]
    members = torch.tensor([[-3.0, 1], [-2, -2], [4, 0]], requires_grad=True)
    z = outputs(prerank=student)
    teacher = StageOutput({"click": members.mean(1)}, members={"click": members})
    value = loss(pseudo("rank"), {**z, "rank": teacher}, made, MEMBERS)
    assert value == pytest.approx(expected(student, members.tolist(), [1, 1, 1], 1.0), rel=1e-5)
    assert members.grad is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (pseudo("rank"), "losses.0.ensemble: 'rank' is a single prediction, whose uncertainty nobody knows"),
        (
            pseudo("rank", "absent"),
            "losses.0.ensemble: no stage and no logged score",
        ),
        (pseudo("rank", "rerank", label="order"), "does not predict the label 'order'"),
        (pseudo("rank", "rerank", on=["absent"]), "losses.0.on: no level 'absent'"),
        (
            pseudo("rank", "rerank", on=["catalogue"]),
            "losses.0.per_request: required, as 'catalogue' has no end",
        ),
        (
            pseudo("rank", "production", on=["batch"], per_request=2),
            "losses.0.on: 'batch' is beyond the log, where nobody knows 'production'",
        ),
    ],
)
def test_what_has_no_uncertainty_or_does_not_exist_is_refused(wrong: PseudoLabelLoss, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        wrong.check(SCOPE, "losses.0")


def test_a_student_does_not_teach_itself_and_nobody_counts_twice() -> None:
    with pytest.raises(ValueError, match="'prerank' is the student"):
        pseudo("prerank", "rank")
    with pytest.raises(ValueError, match="each once"):
        pseudo("rank", "rank")


def test_a_source_is_no_hard_negative_at_the_same_time() -> None:
    negatives = UnexposedLoss.model_validate(
        {"kind": "unexposed", "stage": "prerank", "from": ["batch"], "per_request": 2}
    )
    taught = pseudo("rank", "rerank", on=["batch"], per_request=2)
    with pytest.raises(ConfigError, match="candidates of level batch are also hard negatives of 'prerank'"):
        TotalLoss([negatives, taught], SCOPE).check()
