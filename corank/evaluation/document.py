"""An evaluation as the JSON document of `corank evaluate --json`."""

from typing import Any

from corank.evaluation.measures import CalibrationCurve, Evaluation, Measures
from corank.metrics.bootstrap import interval
from corank.metrics.measure import RatioMeasure

BESIDE_METRICS = ("n", "eligible", "random")
"""Keys next to the metrics of a stage's label."""


def render(evaluation: Evaluation, seed: int = 0, bootstrap: bool = True) -> dict[str, Any]:
    """Values, 95 % intervals, and the number of rows or requests behind them; keys: docs/guides/evaluate.md.

    Intervals are bootstrapped over users, and None without `bootstrap`. A metric that is not defined is None.
    """

    def intervals(measures: Measures) -> dict[str, list[float] | None]:
        return _intervals(measures, seed) if bootstrap else dict.fromkeys(measures)

    stages = evaluation.stages
    document: dict[str, Any] = {
        "split": evaluation.split,
        "requests": evaluation.requests,
        "candidates": evaluation.candidates,
        "stages": {
            name: {
                "exposed": {label: _point(measures) for label, measures in stage.exposed.items()},
                "candidates": {label: _point(measures) for label, measures in stage.candidates.items()},
            }
            for name, stage in stages.items()
        },
        "reliability": {
            name: {label: _bins(curve) for label, curve in stage.calibration.items()}
            for name, stage in stages.items()
        },
        "cascade": None,
        "interval": {
            "stages": {
                name: {
                    "exposed": {label: intervals(measures) for label, measures in stage.exposed.items()},
                    "candidates": {
                        label: intervals(measures) for label, measures in stage.candidates.items()
                    },
                }
                for name, stage in stages.items()
            },
            "cascade": None,
        },
    }
    if evaluation.cuts:
        first = next(iter(evaluation.cuts.values()))
        document["cascade"] = _cascade(first | evaluation.cascade)
        document["interval"]["cascade"] = intervals(first | evaluation.cascade)
        if len(evaluation.cuts) > 1:
            document["cascade"]["stages"] = {n: _cascade(cut) for n, cut in evaluation.cuts.items()}
            document["interval"]["cascade"]["stages"] = {n: intervals(c) for n, c in evaluation.cuts.items()}
    return document


def _intervals(measures: Measures, seed: int) -> dict[str, list[float] | None]:
    intervals: dict[str, list[float] | None] = {}
    for name, measure in measures.items():
        bounds = None if measure is None else interval(measure, seed)
        intervals[name] = None if bounds is None else list(bounds)
    return intervals


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
