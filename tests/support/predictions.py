"""Predictions of two stages on two small requests, for figures computed by hand."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corank.core.calibration import Platt
from corank.evaluation.predictions import Calibrators, EvaluatedStage, Predictions, Truth
from corank.evaluation.rows import Row, name_row
from corank.evaluation.table import measure, rate_rows, subjects_of
from corank.metrics.requests import Requests
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings

LEVELS = ["retrieved", "preranked", "ranked", "exposed"]
STAGES = [
    TowersSettings(
        name="prerank", model="towers", value="click", cuts=["retrieved"], keep=2, query=[4], item=[4]
    ),
    MlpSettings(name="rank", model="mlp", cuts=["preranked"], keep=1, labels=["click", "order"]),
]

IDENTITY: Calibrators = {"prerank": {"click": Platt()}, "rank": {"click": Platt(), "order": Platt()}}


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# Two requests of two users, four candidates and two. P(click) of both stages, level, click, order:
ROWS = [
    (0.8, 0.6, 3, 1, 0),
    (0.6, 0.9, 3, 0, -1),
    (0.4, 0.2, 1, -1, -1),
    (0.2, 0.7, 0, -1, -1),
    (0.3, 0.4, 3, 1, 1),
    (0.5, 0.5, 2, -1, -1),
]


def predictions(**changes: Any) -> Predictions:
    prerank, rank, level, click, order = (np.array(column) for column in zip(*ROWS, strict=True))
    z_p, z_r = (np.array([logit(p) for p in column], np.float32) for column in (prerank, rank))
    fields: dict[str, Any] = {
        "logits": {"prerank": {"click": z_p}, "rank": {"click": z_r, "order": z_p}},
        "requests": Requests(np.array([0, 4, 6]), np.array([7, 3])),
        "day": np.array([0, 0]),
        "level": level.astype(np.uint8),
        "exposed": level == 3,
        "labels": {"click": click.astype(np.int8), "order": order.astype(np.int8)},
        "weight": np.ones(6, np.float32),
    }
    return Predictions(**(fields | changes))


def rows_of(
    rows: Predictions,
    stages: Sequence[EvaluatedStage] = tuple(STAGES),
    calibrators: Calibrators = IDENTITY,
    truth: Truth | None = None,
    **changes: Any,
) -> dict[str, Row]:
    """The rows of an evaluation, by their names."""
    subjects = subjects_of(rows, stages, LEVELS, calibrators, truth or {}, **changes)
    figures = [figure.row("run", "test") for figure in measure(subjects)]
    return {name_row(row): row for row in [*figures, *rate_rows(rows, stages, calibrators, "run", "test")]}


def values_of(rows: Mapping[str, Row], begin: str) -> dict[str, Any]:
    """The values of the rows whose names begin so, by the rest of their names."""
    return {name.removeprefix(begin): row["value"] for name, row in rows.items() if name.startswith(begin)}
