"""A metric of a user's own: early stopping, the evaluation's document and a study find it by its name."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import corank
from corank.analysis.experiments.figures import Objective
from corank.analysis.html import render
from corank.analysis.run_evaluation import evaluate_run
from corank.analysis.run_report import report_view
from corank.core.errors import PluginError
from corank.core.types import Doubles
from corank.evaluation.rows import named_values
from corank.metrics.cascade import cascade_ranks
from corank.metrics.measure import Keys, OrderMeasure, RatioMeasure
from corank.metrics.metric import METRICS, Metric
from corank.metrics.requests import Requests
from corank_continual.periods.gate import Condition
from tests.support.predictions import predictions, rows_of
from tests.support.shared import finished_run


def average_precision(
    user: Keys, scores: NDArray[np.floating], labels: NDArray[np.integer], weight: NDArray[np.floating]
) -> OrderMeasure:
    """Mean over the positives of the precision at their rank; 1 if all of them stand first."""
    rows = labels >= 0
    known, weights = labels[rows].astype(np.float64), weight[rows].astype(np.float64)
    positive, negative = known * weights, (1 - known) * weights
    return OrderMeasure.of(_mean_precision, user[rows], scores[rows], positive, negative)


def _mean_precision(scores: Doubles, positive: Doubles, negative: Doubles) -> float | None:
    hits, above = np.cumsum(positive[::-1]), np.cumsum(positive[::-1] + negative[::-1])
    if hits[-1] == 0:
        return None
    precision = hits / np.where(above > 0, above, 1)  # in a resample the first rows may have no weight
    return float(precision @ positive[::-1] / hits[-1])


def hit_rate(
    requests: Requests,
    clicked: NDArray[np.bool_],
    scores: Sequence[NDArray[np.floating]],
    quotas: Sequence[int],
    k: int,
) -> RatioMeasure:
    """The share of requests with a click whose cascade keeps at least one clicked candidate."""
    kept = requests.sums(clicked & (cascade_ranks(requests, scores, quotas) < k))
    eligible = (requests.size > k) & (requests.sums(clicked) > 0)
    return requests.mean((kept > 0).astype(np.float64), eligible)


AVERAGE_PRECISION = Metric(
    "average_precision",
    average_precision,
    ("user", "logit", "label", "weight"),
    population="exposed",
    better="higher",
    title="average precision, exposed",
    validation=True,
    study="both",
)
HIT_RATE = Metric(
    "hit_rate@{k}",
    hit_rate,
    ("requests", "clicked", "scores", "quotas", "k"),
    population="cascade",
    better="higher",
    study="first",
)


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """Both metrics registered, for one test."""
    METRICS.add("average_precision", AVERAGE_PRECISION)
    METRICS.add("hit_rate", HIT_RATE)
    yield
    for name in ("average_precision", "hit_rate"):
        del METRICS._parts[name]


def test_the_table_has_them_with_intervals() -> None:
    rows = rows_of(predictions())
    for place in ("prerank.exposed.click", "rank.exposed.click", "rank.exposed.order"):
        row = rows[f"{place}.average_precision"]
        assert 0 <= row["value"] <= 1 and row["better"] == "higher"
    assert "prerank.candidates.click.average_precision" not in rows
    hit = rows["cascade.hit_rate@1"]
    assert hit["value"] == rows["cascade.joint_click_recall@1"]["value"] == 0  # each request has one click
    assert hit["n"] == 2 and hit["random"] is None and hit["low"] is not None


@pytest.mark.slow
def test_whatever_measures_a_run_has_it_by_its_registration_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation, comparison, report, a gate, trackers, and what a tuning searches for."""

    def one_each(evaluated: object, quotas: list[int]) -> Doubles:
        return np.ones(len(quotas))

    monkeypatch.setattr("corank.analysis.report_figures.quota_cpu_ms", one_each)
    run, name = finished_run(), "rank.exposed.click.average_precision"
    evaluation = corank.evaluate(run.folder)
    row, compared = evaluation.row(name), corank.compare(run.folder, run.folder).row(name)
    assert row["low"] < row["value"] < row["high"]
    assert compared["a"] == compared["b"] == row["value"] and compared["verdict"] == "no difference shown"
    evaluated = evaluate_run(run, "test")
    assert (
        f"<td>{row['value']:.4f}<small>"
        in str(render(report_view(evaluated))).partition("average_precision")[2]
    )
    figures = named_values(evaluation["rows"])
    assert figures[name] == row["value"] and figures[f"{name}.low"] == row["low"]
    assert Condition.parse(f"{name} >= live - 0.01").check(figures, figures).met
    objective = Objective.of(run.config, "rank.click.average_precision")
    kept = objective.measure(evaluated.predictions, run.config, evaluated.calibrators)
    assert kept["rank.click.average_precision"].value == row["value"]
    assert "hit_rate" in kept  # of the cascade, without its quota


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (average_precision, "is no Metric"),
        (replace(HIT_RATE, population="cascades"), "unknown population 'cascades'; did you mean 'cascade'"),  # type: ignore[arg-type]
        (replace(HIT_RATE, inputs=("request",)), "unknown input 'request'; did you mean 'requests'"),
        (replace(HIT_RATE, name="Hit rate"), "its name is a word with quotas behind"),
        (replace(AVERAGE_PRECISION, name="auc"), "the name 'auc' is taken by the metric 'auc'"),
    ],
)
def test_an_unfit_metric_is_refused_by_name(metric: object, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        METRICS.add("mine", metric)
    assert "metric 'mine'" in str(caught.value) and message in str(caught.value)
    assert "mine" not in METRICS
