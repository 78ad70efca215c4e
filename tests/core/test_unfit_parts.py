"""Parts that a registry refuses, by the sort and the name, with what they lack."""

from dataclasses import replace
from typing import Any, Literal

import pytest

from corank.core.errors import PluginError
from corank.core.registry import Registry
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature
from corank.losses.base import LOSSES, Loss
from corank.metrics.metric import METRICS
from corank.models.mlp import Mlp
from corank.models.settings.stage import STAGE_MODELS, StageSettings


class NoEncode(ColumnFeature):
    kind: Literal["unfit"]


class NoValues(Loss):
    kind: Literal["unfit"]

    @property
    def name(self) -> str:
        return "unfit"


class NoBuild(StageSettings):
    model: Literal["unfit"]
    value: str = "click"
    labels: list[str] = ["click"]


OWN = replace(METRICS["auc"], name="own")
UNFIT: list[tuple[Registry[Any], Any, str]] = [
    (FEATURE_KINDS, NoEncode, "feature kind 'unfit': NoEncode must define encode"),
    (LOSSES, dict, "loss 'unfit': expected a subclass of Loss; received <class 'dict'>"),
    (LOSSES, NoValues, "loss 'unfit': NoValues must define check, learner, population, values"),
    (STAGE_MODELS, Mlp, "stage model 'unfit': expected a subclass of StageSettings; received <class"),
    (STAGE_MODELS, NoBuild, "stage model 'unfit': NoBuild must define network, or build"),
    (METRICS, len, "metric 'unfit' is no Metric"),
    (METRICS, replace(OWN, population="all"), "metric 'unfit': unknown population 'all'"),  # type: ignore[arg-type]
    (METRICS, replace(OWN, inputs=("labels",)), "unknown input 'labels'; did you mean 'label'"),
    (METRICS, replace(OWN, name="Hit rate"), "metric 'unfit': its name is a word with quotas behind"),
    (
        METRICS,
        replace(OWN, name="auc", better="lower"),
        "metric 'unfit': the name 'auc' is taken by the metric 'auc'",
    ),
]


@pytest.mark.parametrize(("registry", "part", "message"), UNFIT)
def test_an_unfit_part_is_refused_by_name(registry: Registry[Any], part: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        registry.add("unfit", part)
    assert message in str(caught.value)
    assert "unfit" not in registry
