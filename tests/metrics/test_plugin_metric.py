"""A metric of a user's own: early stopping, the evaluation's document and a study find it by its name."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from corank.core.errors import PluginError
from corank.core.types import Doubles
from corank.metrics.cascade import cascade_ranks
from corank.metrics.measure import Keys, OrderMeasure, RatioMeasure
from corank.metrics.metric import METRICS, Metric
from corank.metrics.requests import Requests
from tests.support.predictions import IDENTITY, LEVELS, STAGES, document_of, predictions


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


def test_the_document_has_them_with_intervals() -> None:
    document = document_of(predictions(), STAGES, LEVELS, IDENTITY, {}, "test")
    for stage, populations in document["stages"].items():
        for label, figures in populations["exposed"].items():
            assert 0 <= figures["average_precision"] <= 1
            assert "average_precision" in document["interval"]["stages"][stage]["exposed"][label]
        assert "average_precision" not in populations["candidates"]["click"]
    cascade = document["cascade"]
    assert cascade["hit_rate@1"] == cascade["joint_click_recall@1"] == 0  # each request has one click
    assert cascade["eligible"]["hit_rate@1"] == 2 and cascade["random"]["hit_rate@1"] is None
    assert "hit_rate@1" in document["interval"]["cascade"]


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
