"""Bounds on what a lower precision may change, and how losses are reported."""

from typing import Any

import pytest

from corank.bundle.stage_facts import TOLERANCE, PrecisionLoss, StageLoss
from corank.core.errors import ConfigError
from tests.support.shared import derived

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
    with pytest.raises(
        ConfigError, match=r"0\.0021 on 7 logged requests, and export\.max_probability_loss is"
    ):
        loss(max_probability=0.0021).require(LOWERED)
    with pytest.raises(ConfigError) as caught:
        loss(recall=0.97).require(LOWERED)
    assert str(caught.value) == (
        "export.precision: with prerank.vector in int8, stage 'prerank' keeps 0.9700 of what it keeps in fp32 on "
        "7 logged requests, and export.max_recall_loss is 0.02; store more precisely, or allow more; nothing was "
        "written"
    )


@pytest.mark.slow
def test_bytes_an_item_are_told_with_the_scale() -> None:
    facts = next(stage for stage in derived().funnel.manifest.stages if stage.vector_width)
    width = facts.vector_width or 0
    stored = facts.model_copy(update={"name": "prerank", "precision": {"vector": "int8"}})
    first, second = loss().lines([stored])
    assert first == f"precision: prerank.vector int8, {width + 4} bytes an item ({4 * width} in fp32)"
    assert second == (
        f"precision of prerank: recall@{facts.keep} 0.9900, change of a probability 0.002 at most, 0.0004 on "
        "average; offline and online scores agree to 0.006; on 7 logged requests"
    )
