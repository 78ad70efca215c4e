"""Every metric of a split, of each stage, each cut and the cascade; and the document of `corank evaluate --json`.

Letters: B bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.core.lazy import lazy
from corank.evaluation.inputs import CascadeRows, candidate_inputs, exposed_inputs
from corank.evaluation.predictions import (
    Calibrators,
    EvaluatedStage,
    Predictions,
    Truth,
    order_scores,
    stage_values,
    true_values,
)
from corank.metrics.inputs import Inputs, Population
from corank.metrics.intervals import interval
from corank.metrics.measure import Measure, RatioMeasure
from corank.metrics.metric import available
from corank.metrics.point import ReliabilityCurve, reliability

special = lazy("scipy.special")
Measures = dict[str, Measure | None]
"""Metric → its measure, None where it is not defined."""


@dataclass(frozen=True)
class CalibrationCurve:
    """A stage's predicted and observed rates on exposed candidates, in bins of one order."""

    raw: ReliabilityCurve
    calibrated: ReliabilityCurve


@dataclass(frozen=True)
class StageEvaluation:
    """A stage on its own, by label."""

    exposed: dict[str, Measures]
    candidates: dict[str, Measures]
    calibration: dict[str, CalibrationCurve | None]
    """None where no label is known."""


@dataclass(frozen=True)
class Evaluation:
    """The measures of a split by `evaluate_predictions`."""

    split: str
    requests: int
    candidates: int
    stages: dict[str, StageEvaluation]
    cuts: dict[str, Measures]
    """Each stage but the last, against the last; empty with a single stage."""
    cascade: Measures
    """Of the candidates that all stages together keep."""
    page: Measures = field(default_factory=dict)
    """Of the page; empty without one."""


def evaluate_predictions(
    predictions: Predictions,
    stages: Sequence[EvaluatedStage],
    levels: Sequence[str],
    calibrators: Calibrators,
    truth: Truth,
    split: str,
    reference: Predictions | None = None,
    whole_requests: bool = True,
    page: Callable[[CascadeRows], Inputs] | None = None,
) -> Evaluation:
    """Measure each stage alone and the stages as a cascade by every metric of the table.

    Args:
        levels: those of the log, shallow to deep.
        truth: known probabilities by label; empty unless the world is simulated.
        split: its name.
        reference: what a model without selection bias predicts of the same candidates, for `bias_regret`.
        whole_requests: whether all candidates of the requests are there; otherwise no cascade is measured.
        page: fills the pages, if there is one, and gives what metrics of pages read.

    Raises DataError if the reference is of other candidates, or a stage's value is not finite.
    """
    if reference is not None:
        _refuse_other_rows(predictions, reference)
    cuts: dict[str, Measures] = {}
    cascade: Measures = {}
    pages: Measures = {}
    if whole_requests and (len(stages) > 1 or page is not None):
        rows = cascade_rows(predictions, stages, calibrators, truth)
        pages = {} if page is None else measure_all("page", page(rows))
    if len(stages) > 1 and whole_requests:
        cuts = {s.name: measure_all("cut", rows.cut_inputs(n)) for n, s in enumerate(stages[:-1])}
        cascade = measure_all("cascade", rows.cascade_inputs(levels))
    return Evaluation(
        split=split,
        requests=len(predictions.requests.size),
        candidates=int(predictions.requests.start[-1]),
        stages={
            stage.name: _stage(predictions, stage, levels, calibrators[stage.name], truth, reference)
            for stage in stages
        },
        cuts=cuts,
        cascade=cascade,
        page=pages,
    )


def measure_all(population: Population, inputs: Inputs) -> Measures:
    """Every metric of a population whose inputs are there, by its name in documents."""
    return {
        metric.name_of(inputs): metric.measure(inputs) for metric in available(population, inputs).values()
    }


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


def calibration_curve(
    predictions: Predictions, stage: str, label: str, calibrator: Platt
) -> CalibrationCurve | None:
    """Predicted and observed rates of a stage on exposed candidates; None where no label is known."""
    rows = predictions.exposed & (predictions.labels[label] >= 0)
    if not rows.any():
        return None
    positive, weight = predictions.labels[label][rows] == 1, predictions.weight[rows]
    logits = predictions.logits[stage][label][rows].astype(np.float64)
    return CalibrationCurve(
        reliability(special.expit(logits), positive, weight),
        reliability(calibrator.apply(logits), positive, weight),
    )


def _stage(
    predictions: Predictions,
    stage: EvaluatedStage,
    levels: Sequence[str],
    calibrators: dict[str, Platt],
    truth: Truth,
    reference: Predictions | None,
) -> StageEvaluation:
    cuts = [levels.index(level) for level in stage.cuts]
    evaluation = StageEvaluation({}, {}, {})
    for label in stage.labels:
        calibrator = calibrators[label]
        exposed = exposed_inputs(predictions, stage.name, label, calibrator)
        everywhere = candidate_inputs(
            predictions, stage.name, label, calibrator, cuts, truth.get(label), reference
        )
        evaluation.exposed[label] = measure_all("exposed", exposed)
        evaluation.candidates[label] = measure_all("candidates", everywhere)
        evaluation.calibration[label] = calibration_curve(predictions, stage.name, label, calibrator)
    return evaluation


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


def render(evaluation: Evaluation, seed: int = 0, bootstrap: bool = True) -> dict[str, Any]:
    """Values, 95 % intervals, and the number of rows or requests behind them; keys: docs/guides/evaluate.md.

    Intervals are bootstrapped over users, and None without `bootstrap`. A metric that is not defined is None.
    """

    def intervals(measures: Measures) -> dict[str, list[float] | None]:
        return _intervals(measures, seed) if bootstrap else dict.fromkeys(measures)

    def by_stage(figures: Callable[[Measures], dict[str, Any]]) -> dict[str, Any]:
        return {
            name: {
                population: {label: figures(measures) for label, measures in by_label.items()}
                for population, by_label in (("exposed", stage.exposed), ("candidates", stage.candidates))
            }
            for name, stage in evaluation.stages.items()
        }

    document: dict[str, Any] = {
        "split": evaluation.split,
        "requests": evaluation.requests,
        "candidates": evaluation.candidates,
        "stages": by_stage(_point),
        "reliability": {
            name: {label: _bins(curve) for label, curve in stage.calibration.items()}
            for name, stage in evaluation.stages.items()
        },
        "cascade": None,
        "interval": {"stages": by_stage(intervals), "cascade": None},
    }
    if evaluation.cuts:
        first = next(iter(evaluation.cuts.values()))
        document["cascade"] = _cascade(first | evaluation.cascade)
        document["interval"]["cascade"] = intervals(first | evaluation.cascade)
        if len(evaluation.cuts) > 1:
            document["cascade"]["stages"] = {n: _cascade(cut) for n, cut in evaluation.cuts.items()}
            document["interval"]["cascade"]["stages"] = {n: intervals(c) for n, c in evaluation.cuts.items()}
    if evaluation.page:
        document["page"] = _cascade(evaluation.page)
        document["interval"]["page"] = intervals(evaluation.page)
    return document


def _intervals(measures: Measures, seed: int) -> dict[str, list[float] | None]:
    bounds = {n: None if measure is None else interval(measure, seed) for n, measure in measures.items()}
    return {name: None if ends is None else list(ends) for name, ends in bounds.items()}


def _values(measures: Measures) -> dict[str, Any]:
    return {name: None if m is None else m.value() for name, m in measures.items()}


def _point(measures: Measures) -> dict[str, Any]:
    """Values, the number of rows, and for metrics of an order within groups the parts of `_groups`."""
    n = next((measure.n for measure in measures.values() if measure is not None), 0)
    grouped: Measures = {
        name: m for name, m in measures.items() if isinstance(m, RatioMeasure) and m.random is not None
    }
    return _values(measures) | {"n": n} | (_groups(grouped) if grouped else {})


def _cascade(measures: Measures) -> dict[str, Any]:
    return _values(measures) | _groups(measures)


def _groups(measures: Measures) -> dict[str, Any]:
    """How many requests, or users, count, and the value of a random order."""
    return {
        "eligible": {name: 0 if m is None else m.n for name, m in measures.items()},
        "random": {
            name: m.random_value() if isinstance(m, RatioMeasure) else None for name, m in measures.items()
        },
    }


def _bins(curve: CalibrationCurve | None) -> list[dict[str, float]]:
    """Bin by bin: the mean prediction raw and calibrated, the observed rate with its interval, and its rows."""
    if curve is None:
        return []
    columns = {
        "raw": curve.raw.predicted,
        "calibrated": curve.calibrated.predicted,
        "observed": curve.raw.observed,
        "low": curve.raw.low,
        "high": curve.raw.high,
        "n": curve.raw.rows,
    }
    return [
        {name: values[n].item() for name, values in columns.items()} for n in range(len(curve.raw.predicted))
    ]
