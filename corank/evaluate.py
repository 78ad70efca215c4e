"""Every stage judged alone, on exposed candidates and on all, and the stages judged as a cascade.

Letters: C candidates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from corank import metrics
from corank.calibrate import Platt
from corank.joint import Stage
from corank.metrics import Measure
from corank.pack import Packed
from corank.predict import Predictions
from corank.rows import Floats

Calibrators = dict[str, dict[str, Platt]]
"""Stage → label."""
Truth = dict[str, Floats]
"""Label → known click probability (C,); empty unless the world is simulated."""


def truth_of(packed: Packed, split: str) -> Truth:
    """The truth table of a split, which nothing but evaluation reads."""
    shards = packed.splits[split]
    return {label: np.concatenate([shard.truth[label] for shard in shards]) for label in shards[0].truth}


def exposed_measures(
    predictions: Predictions, stage: str, label: str, calibrator: Platt
) -> dict[str, Measure]:
    """The point metrics of a stage on exposed candidates, raw and calibrated."""
    rows = predictions.exposed
    user = predictions.requests.user_of()[rows]
    known, weight = predictions.labels[label][rows], predictions.weight[rows]
    logits = predictions.logits[stage][label][rows]
    raw, calibrated = expit(logits), calibrator.apply(logits)
    return {
        "auc": metrics.auc(user, logits, known, weight),
        "gauc": metrics.gauc(user, logits, known, weight),
        "logloss": metrics.logloss(user, raw, known, weight),
        "logloss_calibrated": metrics.logloss(user, calibrated, known, weight),
        "pcoc": metrics.pcoc(user, raw, known, weight),
        "pcoc_calibrated": metrics.pcoc(user, calibrated, known, weight),
        "ece": metrics.ece(user, raw, known, weight),
        "ece_calibrated": metrics.ece(user, calibrated, known, weight),
    }


def candidate_measures(
    predictions: Predictions, stage: str, label: str, cuts: Sequence[int], truth: Floats | None
) -> dict[str, Measure | None]:
    """`auc` on all candidates against the truth, `cut_auc` of kept against cut candidates."""
    user, logits = predictions.requests.user_of(), predictions.logits[stage][label]
    return {
        "auc": None if truth is None else metrics.truth_auc(user, logits, truth, predictions.weight),
        "cut_auc": metrics.cut_auc(user, logits, predictions.level, cuts, predictions.weight)
        if cuts
        else None,
    }


def cascade_measures(
    predictions: Predictions, first: Stage, last: Stage, calibrators: Calibrators, truth: Floats | None
) -> dict[str, Measure | None]:
    """How the last stage's choice survives the first stage's cut, by the quotas of both."""
    requests, m, k = predictions.requests, first.keep, last.keep
    logits = predictions.logits[first.name][first.value]
    value = calibrators[last.name][last.value].apply(predictions.logits[last.name][last.value])
    stage, ranker = requests.places(logits), requests.places(value)
    truth_recall = None
    if truth is not None:
        truth_recall = metrics.recall(requests, requests.places(truth), stage, k, m)
    return {
        f"click_recall@{m}": metrics.click_recall(requests, predictions.labels[first.value], stage, m),
        f"agree_recall@{k}@{m}": metrics.recall(requests, ranker, stage, k, m),
        f"truth_recall@{k}@{m}": truth_recall,
        f"overlap@{k}": metrics.overlap(requests, stage, ranker, k),
        f"score_loss@{k}": metrics.score_loss(requests, value, stage, k),
        "kendall_tau": metrics.kendall_tau(requests, logits, value),
    }


def evaluate(
    predictions: Predictions,
    stages: Sequence[Stage],
    levels: Sequence[str],
    calibrators: Calibrators,
    truth: Truth,
    split: str,
    seed: int = 0,
    bootstrap: bool = True,
) -> dict[str, Any]:
    """The JSON document of a split: stages, cascade, and a 95 % interval beside every figure.

    Intervals are bootstrapped over users, and None without `bootstrap`. A metric with nothing eligible is None.
    """

    def bounds(found: dict[str, Measure | None]) -> dict[str, list[float] | None]:
        return _intervals(found, seed) if bootstrap else dict.fromkeys(found)

    stage_figures: dict[str, Any] = {}
    stage_intervals: dict[str, Any] = {}
    for stage in stages:
        by_population: dict[str, dict[str, dict[str, Measure | None]]] = {"exposed": {}, "candidates": {}}
        cuts = [levels.index(level) for level in stage.cuts]
        for label in stage.labels:
            calibrator = calibrators[stage.name][label]
            by_population["exposed"][label] = dict(
                exposed_measures(predictions, stage.name, label, calibrator)
            )
            by_population["candidates"][label] = candidate_measures(
                predictions, stage.name, label, cuts, truth.get(label)
            )
        stage_figures[stage.name] = _each(by_population, _figures)
        stage_intervals[stage.name] = _each(by_population, bounds)
    document: dict[str, Any] = {
        "split": split,
        "requests": len(predictions.requests.size),
        "candidates": int(predictions.requests.start[-1]),
        "stages": stage_figures,
        "cascade": None,
        "interval": {"stages": stage_intervals, "cascade": None},
    }
    if len(stages) > 1:
        truth_column = truth.get(stages[-1].value)
        found = cascade_measures(predictions, stages[0], stages[-1], calibrators, truth_column)
        document["cascade"] = _figures(found, n=False) | {
            "eligible": {name: 0 if measure is None else measure.n for name, measure in found.items()},
            "random": {name: _chance(measure) for name, measure in found.items()},
        }
        document["interval"]["cascade"] = bounds(found)
    return document


def _each(by_population: dict[str, dict[str, Any]], apply: Any) -> dict[str, dict[str, Any]]:
    return {
        p: {label: apply(found) for label, found in labels.items()} for p, labels in by_population.items()
    }


def _figures(found: dict[str, Measure | None], n: bool = True) -> dict[str, Any]:
    figures: dict[str, Any] = {name: None if m is None else m.value() for name, m in found.items()}
    if n:
        figures["n"] = next((m.n for m in found.values() if m is not None), 0)
    return figures


def _intervals(found: dict[str, Measure | None], seed: int) -> dict[str, list[float] | None]:
    intervals: dict[str, list[float] | None] = {}
    for name, measure in found.items():
        interval = None if measure is None else metrics.interval(measure, seed)
        intervals[name] = None if interval is None else list(interval)
    return intervals


def _chance(measure: Measure | None) -> float | None:
    return measure.chance() if isinstance(measure, metrics.Ratio) else None
