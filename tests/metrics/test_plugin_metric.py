"""A metric of a user's own: early stopping, the evaluation's document and experiments find it by its name."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import corank
from corank.analysis.experiments.figures import Objective
from corank.analysis.html import render
from corank.analysis.run_evaluation import evaluate_run
from corank.analysis.run_report import report_view
from corank.evaluation.rows import named_values
from corank.metrics.cascade import cascade_ranks
from corank.metrics.measure import RatioMeasure
from corank.metrics.metric import METRICS, Metric
from corank.metrics.requests import Requests
from corank.testing.parts import registered, unregister
from corank_continual.periods.gate import Condition
from examples.plugins.average_precision import AVERAGE_PRECISION
from tests.support.shared import copy_run, finished_run


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


unregister(METRICS, "average_precision")  # registered in tests of this file alone
HIT_RATE = Metric(
    "hit_rate@{k}",
    hit_rate,
    ("requests", "clicked", "scores", "quotas", "k"),
    population="cascade",
    better="higher",
)


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """Both metrics, for one test."""
    with registered(METRICS, average_precision=AVERAGE_PRECISION, hit_rate=HIT_RATE):
        yield


@pytest.mark.slow
def test_whatever_measures_a_run_has_it_by_its_registration_alone(tmp_path: Path) -> None:
    """Evaluation, comparison, report, a gate, trackers, and what a tuning searches for."""
    run, name = finished_run(), "rank.exposed.click.average_precision"
    evaluation = corank.evaluate(run.folder)
    other = copy_run(run, tmp_path / "other")
    row, compared = evaluation.row(name), corank.compare(run.folder, other.folder).row(name)
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
    kept = objective.measure(evaluated, run.config.page)
    assert kept["rank.click.average_precision"].value == row["value"]
    assert "hit_rate" in kept  # of the cascade, without its quota
