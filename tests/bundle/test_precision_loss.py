"""Bounds on what a lower precision may change, and how losses are reported."""

from typing import Any

import pytest

from corank.bundle.stage_facts import TOLERANCE, PrecisionLoss, StageLoss
from corank.core.errors import ConfigError

LOWERED: Any = {"prerank.vector": "int8"}


def loss(**changes: float) -> PrecisionLoss:
    figures = {
        "recall": 0.99,
        "max_probability": 0.002,
        "mean_probability": 0.0004,
        "max_score": 0.003,
    } | changes
    return PrecisionLoss(
        requests=7,
        candidates=70,
        max_recall_loss=0.02,
        max_probability_loss=0.002,
        stages={"prerank": StageLoss.model_validate(figures)},
    )


def test_a_loss_beyond_a_bound_is_refused() -> None:
    loss().require(LOWERED)
    assert loss().stages["prerank"].tolerance == TOLERANCE + 2 * 0.003
    with pytest.raises(ConfigError, match=r"0\.0021 on 7 logged .* and export\.max_probability_loss is"):
        loss(max_probability=0.0021).require(LOWERED)
    with pytest.raises(ConfigError) as caught:
        loss(recall=0.97).require(LOWERED)
    assert str(caught.value) == (
        "export.precision: with prerank.vector in int8, stage 'prerank' keeps 0.9700 of what it keeps in fp32 on "
        "7 logged requests, and export.max_recall_loss is 0.02; store more precisely, or allow more; nothing was "
        "written"
    )
