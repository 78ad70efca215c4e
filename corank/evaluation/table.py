"""The table of figures: whatever is measured is rows of it, one figure a row; pages, JSON, frames and trackers show it.

A metric knows nothing of stages, populations, labels or groups. What it is measured on is a subject, and one loop calls
every metric on every subject. A figure keeps its measure and its values in resamples of the users, so that figures of
the same users are compared in pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.core.lazy import lazy
from corank.core.types import Doubles
from corank.evaluation.inputs import CascadeRows, Subject, candidate_inputs, point_inputs
from corank.evaluation.predictions import (
    Calibrators,
    EvaluatedStage,
    Predictions,
    Truth,
    order_scores,
    stage_values,
    true_values,
)
from corank.evaluation.rows import COLUMNS, COUNTS, KEYS, RELIABILITY, Row, name_row
from corank.metrics.inputs import Inputs
from corank.metrics.intervals import percentiles, replicates
from corank.metrics.measure import Measure, RatioMeasure
from corank.metrics.metric import Metric, available
from corank.metrics.point import reliability

special = lazy("scipy.special")


@dataclass(frozen=True, eq=False)
class Figure:
    """A metric of a subject."""

    place: tuple[str, ...]
    """What is measured: its values of KEYS."""
    name: str
    """For early stopping and searches: `STAGE.LABEL.METRIC`; of a cut `STAGE.METRIC`, of a cascade `METRIC`, of a page
    `page.METRIC`, with the registered names, which have no quotas: those may differ between configs."""
    metric: Metric
    measure: Measure | None
    """None where an input is not known."""
    most_requests: int | None = None
    """Those that the subject's rows are of; None of a subject whose rows are requests."""

    @cached_property
    def value(self) -> float | None:
        """The value; None where it is not defined."""
        return None if self.measure is None else self.measure.value()

    @property
    def n(self) -> int:
        """How many rows, requests or users count."""
        return 0 if self.measure is None else self.measure.n

    @property
    def random(self) -> float | None:
        """The value expected of a random order; None for metrics that are not of an order."""
        return self.measure.random_value() if isinstance(self.measure, RatioMeasure) else None

    @property
    def reason(self) -> str | None:
        """Why the data cannot tell it, if that is known."""
        return self.measure.reason if isinstance(self.measure, RatioMeasure) else None

    @property
    def requests(self) -> int:
        """The requests that it rests on: those that count; of rows those that they are of, at most."""
        return self.n if self.most_requests is None else min(self.n, self.most_requests)

    @cached_property
    def replicates(self) -> Doubles:
        """Its values in resamples of the users, the same for all figures of the same users."""
        assert self.measure is not None
        return replicates(self.measure)

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over users; None without a value, or with a single user."""
        return None if self.value is None or self.of_one_user else percentiles(self.replicates)

    @property
    def of_one_user(self) -> bool:
        """Whether it is of a single user, whose resamples say nothing of others."""
        return self.measure is None or bool((self.measure.user == self.measure.user[0]).all())

    def row(self, run: str, split: str, bootstrap: bool = True) -> Row:
        """Its row; without `bootstrap` it has no interval."""
        low, high = (self.interval() if bootstrap else None) or (None, None)
        place = run, split, *self.place
        return _row(place, self.value, self.n, low, high, self.metric.better, self.random)


def measure(
    subjects: Iterable[Subject],
    wanted: Callable[[Subject, str, Metric], bool] = lambda subject, name, metric: True,
) -> list[Figure]:
    """Every metric of every subject that has its inputs.

    Args:
        subjects: what is measured.
        wanted: takes a subject, the name that a figure of it would have for searches, and its metric.
    """
    figures = []
    for subject in subjects:
        inputs, most = subject.inputs, _count_requests(subject.inputs)
        for key, metric in available(subject.population, inputs).items():
            stage, label, population, group = subject.stage, subject.label, subject.population, subject.group
            metric_name = metric.name if label else page_figure(key) if population == "page" else key
            name = ".".join(filter(None, (stage, label, metric_name)))
            if wanted(subject, name, metric):
                place = (stage, label, population, group, metric.name_of(inputs))
                figures.append(Figure(place, name, metric, metric.measure(inputs), most))
    return figures


def validation_figures(predictions: Predictions) -> list[Figure]:
    """What training computes after every epoch: of each stage and label, on exposed candidates."""
    subjects = (
        Subject(stage, label, "exposed", point_inputs(predictions, stage, label))
        for stage, by_label in predictions.logits.items()
        for label in by_label
    )
    return measure(subjects, lambda subject, name, metric: metric.validation)


def page_figure(key: str) -> str:
    """The name for searches of a metric of pages, by its registered name: `page_clicks` → `page.clicks`."""
    return f"page.{key.removeprefix('page_')}"


def reasons_of(figures: Iterable[Figure]) -> dict[str, str]:
    """Why the data cannot tell some figures, by the names of their rows."""
    return {
        name_row(dict(zip(KEYS, figure.place, strict=True))): figure.reason
        for figure in figures
        if figure.reason
    }


def _count_requests(inputs: Inputs) -> int | None:
    """The requests of rows whose label is known; None without rows, or if it is not known which request is whose."""
    request = inputs.get("request")
    if request is None:
        return None
    return int(np.count_nonzero(np.bincount(np.asarray(request)[np.asarray(inputs["label"]) >= 0])))


def subjects_of(
    predictions: Predictions,
    stages: Sequence[EvaluatedStage],
    levels: Sequence[str],
    calibrators: Calibrators,
    truth: Truth,
    reference: Predictions | None = None,
    whole_requests: bool = True,
    group: str = "",
) -> Iterator[Subject]:
    """Each stage and label on exposed and on all candidates, what each stage keeps, and what all keep together.

    Args:
        levels: those of the log, shallow to deep.
        truth: known probabilities by label; empty unless the world is simulated.
        reference: what a model without selection bias predicts of the same candidates, for `bias_regret`.
        whole_requests: whether all candidates of the requests are there; otherwise no cascade is measured.
        group: of the candidates, if they are a part of the split.

    Raises DataError if the reference is of other candidates, or a stage's value is not finite.
    """
    if reference is not None:
        _refuse_other_rows(predictions, reference)
    for stage in stages:
        cuts = [levels.index(level) for level in stage.cuts]
        for label in stage.labels:
            calibrator = calibrators[stage.name][label]
            exposed = point_inputs(predictions, stage.name, label, calibrator)
            yield Subject(stage.name, label, "exposed", exposed, group)
            everywhere = candidate_inputs(
                predictions, stage.name, label, calibrator, cuts, truth.get(label), reference
            )
            yield Subject(stage.name, label, "candidates", everywhere, group)
    if len(stages) > 1 and whole_requests:
        yield from cascade_rows(predictions, stages, calibrators, truth).subjects(levels, group)


def cascade_rows(
    predictions: Predictions, stages: Sequence[EvaluatedStage], calibrators: Calibrators, truth: Truth
) -> CascadeRows:
    """The split as the stages order it; of the last stage by the value itself, which is summed, too."""
    *earlier, last = stages
    value = stage_values(predictions, last, calibrators[last.name])
    scores = [order_scores(predictions, stage, calibrators[stage.name]) for stage in earlier]
    expected = calibrators[last.name][last.main].apply(predictions.logits[last.name][last.main])
    truths = true_values(predictions, last, truth)
    return CascadeRows(predictions, stages, [*scores, value], value, truths, expected)


def count_rows(predictions: Predictions, run: str, split: str, group: str = "") -> Iterator[Row]:
    """The rows that say how much was measured."""
    for name, count in predictions.counts.items():
        yield _row((run, split, "", "", COUNTS, group, name), count, count)


def rate_rows(
    predictions: Predictions,
    stages: Sequence[EvaluatedStage],
    calibrators: Calibrators,
    run: str,
    split: str,
    group: str = "",
) -> Iterator[Row]:
    """Predicted and observed rates of each stage and label, bin by bin: `predicted@1`, `observed@1`, and so on."""
    for stage in stages:
        for label in stage.labels:
            rates = _rates(predictions, stage.name, label, calibrators[stage.name][label])
            for n, (raw, calibrated, observed, low, high, count) in enumerate(rates, start=1):
                place = run, split, stage.name, label, RELIABILITY, group
                yield _row((*place, f"predicted@{n}"), raw, int(count))
                yield _row((*place, f"predicted_calibrated@{n}"), calibrated, int(count))
                yield _row((*place, f"observed@{n}"), observed, int(count), low, high)


def _row(
    place: Sequence[str],
    value: float | None,
    n: int,
    low: float | None = None,
    high: float | None = None,
    better: str | None = None,
    random: float | None = None,
) -> Row:
    return dict(zip(COLUMNS, (*place, value, low, high, n, better, random), strict=True))


def _rates(
    predictions: Predictions, stage: str, label: str, calibrator: Platt
) -> Iterator[tuple[float, float, float, float, float, float]]:
    """By bin of equal mass of exposed candidates: mean prediction, raw and calibrated; observed rate, its bounds; n."""
    rows = predictions.exposed & (predictions.labels[label] >= 0)
    if not rows.any():
        return
    positive, weight = predictions.labels[label][rows] == 1, predictions.weight[rows]
    logits = predictions.logits[stage][label][rows].astype(np.float64)
    raw, calibrated = (
        reliability(p, positive, weight) for p in (special.expit(logits), calibrator.apply(logits))
    )
    columns = raw.predicted, calibrated.predicted, raw.observed, raw.low, raw.high, raw.rows
    yield from zip(*(column.tolist() for column in columns), strict=True)


def _refuse_other_rows(predictions: Predictions, reference: Predictions) -> None:
    """Raise DataError unless the reference scores the very same candidates, by the same stages and labels."""
    ours, theirs = predictions.requests, reference.requests
    for name, one, other in (
        ("requests", ours.start, theirs.start),
        ("users", ours.user, theirs.user),
        ("levels", predictions.level, reference.level),
    ):
        if not np.array_equal(one, other):
            raise DataError(
                f"reference: its {name} are others ({theirs.start[-1]:,} candidates, here {ours.start[-1]:,}); "
                "bias regret is of the same rows: give a run on the same packed data"
            )
    for stage, logits in predictions.logits.items():
        for label in logits:
            if label not in reference.logits.get(stage, {}):
                known = ", ".join(
                    f"{s}.{name}" for s, by_label in reference.logits.items() for name in by_label
                )
                raise DataError(f"reference: has no '{stage}.{label}' to compare with; it predicts {known}")
