"""Every stage judged alone, on exposed candidates and on all, and the stages judged as a cascade.

Letters: C candidates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from corank import metrics
from corank.core.calibration import Platt
from corank.core.errors import DataError
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.evaluation.predict import Predictions
from corank.evaluation.stage_order import Calibrators, Truth, order_of, true_value, value_of
from corank.metrics import Measure
from corank.models.joint import Stage


def truth_of(packed: PackedDataset, split: str) -> Truth:
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


def reliability_of(
    predictions: Predictions, stage: str, label: str, calibrator: Platt
) -> list[dict[str, float]]:
    """A stage's reliability curve on exposed candidates, bin by bin: what it says raw and calibrated, and what came."""
    rows = predictions.exposed & (predictions.labels[label] >= 0)
    positive, weight = predictions.labels[label][rows] == 1, predictions.weight[rows]
    if not rows.any():
        return []
    logits = predictions.logits[stage][label][rows]
    # of one order, so of the same bins
    raw = metrics.reliability(expit(logits.astype(np.float64)), positive, weight)
    calibrated = metrics.reliability(calibrator.apply(logits.astype(np.float64)), positive, weight)
    columns = {
        "raw": raw.predicted,
        "calibrated": calibrated.predicted,
        "observed": raw.observed,
        "low": raw.low,
        "high": raw.high,
        "n": raw.rows,
    }
    return [{name: values[n].item() for name, values in columns.items()} for n in range(len(raw.predicted))]


def candidate_measures(
    predictions: Predictions,
    stage: str,
    label: str,
    cuts: Sequence[int],
    truth: Floats | None,
    reference: Predictions | None = None,
) -> dict[str, Measure | None]:
    """`auc` on all candidates against the truth, `cut_auc` of kept against cut candidates.

    With a reference its AUC less the stage's, `bias_regret`.
    """
    user, logits, weight = (
        predictions.requests.user_of(),
        predictions.logits[stage][label],
        predictions.weight,
    )
    found: dict[str, Measure | None] = {
        "auc": None if truth is None else metrics.truth_auc(user, logits, truth, weight),
        "cut_auc": metrics.cut_auc(user, logits, predictions.level, cuts, weight) if cuts else None,
    }
    if reference is not None:
        unbiased = reference.logits[stage][label]
        found["bias_regret"] = (
            None if truth is None else metrics.bias_regret(user, unbiased, logits, truth, weight)
        )
    return found


def stage_measures(
    predictions: Predictions,
    stages: Sequence[Stage],
    at: int,
    scores: Sequence[NDArray[np.floating]],
    truth: Floats | None,
) -> dict[str, Measure | None]:
    """How the last stage's choice survives the cut of stage `at`, both on all candidates, by their quotas."""
    requests, m, k = predictions.requests, stages[at].keep, stages[-1].keep
    own, value = scores[at], scores[-1]
    stage, ranker = requests.places(own), requests.places(value)
    quotas, last = [s.keep for s in stages[:-1]], len(stages) - 1
    labels = predictions.labels[stages[at].main]
    return {
        f"click_recall@{m}": metrics.click_recall(requests, labels, stage, m),
        f"agree_recall@{k}@{m}": metrics.recall(requests, ranker, stage, k, m),
        f"truth_recall@{k}@{m}": None
        if truth is None
        else metrics.recall(requests, requests.places(truth), stage, k, m),
        f"overlap@{k}": metrics.overlap(requests, stage, ranker, k),
        f"score_loss@{k}": metrics.score_loss(requests, value, stage, k),
        "kendall_tau": metrics.kendall_tau(requests, own, value),
        f"best_score_loss@{m}": metrics.best_score_loss(requests, value, stage, m),
        f"gain_ratio@{k}@{m}": metrics.gain_ratio(requests, value, stage, k, m),
        f"ndcg@{k}": metrics.ndcg(requests, ranker, stage, k),
        f"rcs@{k}": metrics.replaced_hit_rate(requests, scores, quotas, last, by=own, k=k),
    }


def joint_measures(
    predictions: Predictions,
    stages: Sequence[Stage],
    scores: Sequence[NDArray[np.floating]],
    levels: Sequence[str],
    truth: Floats | None,
) -> dict[str, Measure | None]:
    """What of the clicked, of the truth's best and of production's choice comes through all stages."""
    requests, last = predictions.requests, stages[-1]
    quotas, k = [stage.keep for stage in stages[:-1]], last.keep

    def through(positives: NDArray[np.bool_]) -> Measure:
        return metrics.joint_recall(requests, positives, scores, quotas, k)

    cuts = [levels.index(level) for level in last.cuts]
    kept = predictions.level > max(cuts, default=len(levels))
    found: dict[str, Measure | None] = {
        f"joint_click_recall@{k}": through(predictions.labels[last.main] == 1),
        f"joint_truth_recall@{k}@{k}": None if truth is None else through(requests.places(truth) < k),
        f"joint_kept_recall@{k}": through(kept) if kept.any() and not kept.all() else None,
    }
    if len(stages) > 2:  # of two stages it is agree_recall
        best = requests.places(scores[-1]) < k
        found[f"joint_agree_recall@{k}@{quotas[-1]}"] = metrics.joint_recall(
            requests, best, scores[:-1], quotas[:-1], quotas[-1]
        )
    return found


def _scores(
    predictions: Predictions, stages: Sequence[Stage], calibrators: Calibrators
) -> list[NDArray[np.floating]]:
    """What each stage orders by, of the last its value itself, which is summed, too."""
    *others, last = stages
    ordered = [order_of(predictions, stage, calibrators[stage.name]) for stage in others]
    return [*ordered, value_of(predictions, last, calibrators[last.name])]


def refuse_other_rows(predictions: Predictions, reference: Predictions) -> None:
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
                known = ", ".join(f"{s}.{name}" for s, found in reference.logits.items() for name in found)
                raise DataError(f"reference: has no '{stage}.{label}' to compare with; it predicts {known}")


def evaluate(
    predictions: Predictions,
    stages: Sequence[Stage],
    levels: Sequence[str],
    calibrators: Calibrators,
    truth: Truth,
    split: str,
    seed: int = 0,
    bootstrap: bool = True,
    reference: Predictions | None = None,
) -> dict[str, Any]:
    """The JSON document of a split: stages, cascade, and a 95 % interval beside every figure.

    Intervals are bootstrapped over users, and None without `bootstrap`. A metric with nothing eligible is None.
    `reference` is what a model without selection bias says of the same candidates, for `bias_regret`; DataError
    where it is of others.
    """
    if reference is not None:
        refuse_other_rows(predictions, reference)

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
                predictions, stage.name, label, cuts, truth.get(label), reference
            )
        stage_figures[stage.name] = _each(by_population, _figures)
        stage_intervals[stage.name] = _each(by_population, bounds)
    document: dict[str, Any] = {
        "split": split,
        "requests": len(predictions.requests.size),
        "candidates": int(predictions.requests.start[-1]),
        "stages": stage_figures,
        "reliability": {
            stage.name: {
                label: reliability_of(predictions, stage.name, label, calibrators[stage.name][label])
                for label in stage.labels
            }
            for stage in stages
        },
        "cascade": None,
        "interval": {"stages": stage_intervals, "cascade": None},
    }
    if len(stages) > 1:
        scores = _scores(predictions, stages, calibrators)
        last_truth = true_value(predictions, stages[-1], truth)
        each = {
            stage.name: stage_measures(predictions, stages, at, scores, last_truth)
            for at, stage in enumerate(stages[:-1])
        }
        found = each[stages[0].name] | joint_measures(predictions, stages, scores, levels, last_truth)
        document["cascade"], document["interval"]["cascade"] = _cascade_figures(found), bounds(found)
        if len(stages) > 2:
            document["cascade"]["stages"] = {name: _cascade_figures(found) for name, found in each.items()}
            document["interval"]["cascade"]["stages"] = {name: bounds(found) for name, found in each.items()}
    return document


def _cascade_figures(found: dict[str, Measure | None]) -> dict[str, Any]:
    return _figures(found, n=False) | {
        "eligible": {name: 0 if measure is None else measure.n for name, measure in found.items()},
        "random": {name: _chance(measure) for name, measure in found.items()},
    }


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
