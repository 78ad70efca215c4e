"""Two runs compared on the same rows: each metric's difference, with a paired interval over users and a verdict."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import numpy as np

from corank.analysis.comparison_page import WORDS
from corank.analysis.evaluated_run import EvaluatedRun, predict_run
from corank.core.errors import DataError
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.types import Doubles
from corank.evaluation.measures import Evaluation, Measures, evaluate_predictions
from corank.evaluation.predict import read_truth
from corank.metrics.inputs import Population
from corank.metrics.intervals import replicates
from corank.metrics.metric import Direction, metric_direction
from corank.training.config.config import Config
from corank.training.config.config_file import flatten, plain
from corank.training.run import Run


@dataclass(frozen=True)
class Margins:
    """How large a difference must be to count, in the unit of the metric."""

    default: float = 0.0
    by_metric: Mapping[str, float] = field(default_factory=dict)
    """That of some metrics, such as `click_recall@50`."""

    @classmethod
    def read(cls, given: Iterable[str]) -> Self:
        """Read `NUMBER` and `METRIC=NUMBER`. Raises DataError for what is neither, or below 0."""
        default, by_metric = 0.0, dict[str, float]()
        for text in given:
            metric, equals, number = text.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not 0 <= value < float("inf") or bool(equals) != bool(metric):
                raise DataError(f"--margin: expected NUMBER or METRIC=NUMBER, 0 or more; received {text!r}")
            if metric:
                by_metric[metric] = value
            else:
                default = value
        return cls(default, by_metric)

    def of(self, metric: str) -> float:
        """The margin of a metric."""
        return self.by_metric.get(metric, self.default)

    def document(self) -> dict[str, float]:
        """All margins by metric; that of all others is `all`."""
        return {"all": self.default, **self.by_metric}

    def require_metrics(self, stages: Mapping[str, Any], *others: Mapping[str, Any]) -> None:
        """Raise DataError if a metric is named that was not compared: of stages by population and label, or others."""
        labels = (by_label for populations in stages.values() for by_label in populations.values())
        parts = chain(chain.from_iterable(by_label.values() for by_label in labels), others)
        names = list(dict.fromkeys(chain.from_iterable(parts)))
        for metric in self.by_metric:
            if metric not in names:
                raise DataError(f"--margin: no metric '{metric}' was compared; there are {', '.join(names)}")


@dataclass(frozen=True)
class MeasuredRun:
    """A run with its predictions on one split and their metrics, without intervals."""

    evaluated: EvaluatedRun
    """Its document holds the split alone."""
    measured: Evaluation

    @classmethod
    def of(
        cls,
        run: Run,
        split: str,
        progress: Progress = lambda done, total: None,
        on: Location | None = None,
    ) -> Self:
        """Predict and measure, on the run's packed data or those at `on`. Raises CheckpointError, DataError."""
        packed, model, calibrators, predictions, lost = predict_run(run, split, progress, on)
        truth, config = read_truth(packed, split), run.config
        measured = evaluate_predictions(
            predictions, config.stages, config.data.levels, calibrators, truth, split
        )
        document = {"split": split, "lost": lost}
        return cls(EvaluatedRun(run, packed, model, calibrators, predictions, truth, document), measured)

    def digest(self) -> bytes:
        """A hash of the split's candidates: requests, users, items, levels and labels."""
        packed, predictions = self.evaluated.packed, self.evaluated.predictions
        digest = hashlib.sha256(predictions.requests.start.tobytes())
        digest.update(np.ascontiguousarray(predictions.requests.user).tobytes())
        digest.update(predictions.level.tobytes())
        for name, label in sorted(predictions.labels.items()):
            digest.update(name.encode() + label.tobytes())
        for shard in packed.splits[self.evaluated.document["split"]]:
            digest.update(shard.keys.hash_rows(0).to_numpy().tobytes())
            digest.update(packed.item_keys["item"].gather(shard.item).hash(0).to_numpy().tobytes())
        return digest.digest()


def compare_runs(
    one: Run,
    other: Run,
    split: str = "test",
    progress: Progress = lambda done, total: None,
    on: Location | None = None,
    margins: Margins = Margins(),
) -> dict[str, Any]:
    """Compare two runs on the same candidates of a split.

    Args:
        one: a finished run.
        other: another; its features, stages and packed data may differ.
        split: `train`, `valid` or `test`.
        progress: receives how many requests are scored, and of how many, of each run.
        on: packed data to judge both on. Unless given each is judged on its own if both are of the same log and split,
            and otherwise both on those of `other`.
        margins: differences that count.

    Returns the document of `corank compare --json`. Raises CheckpointError, and DataError if the candidates differ, or
    a run cannot be judged on the packed data.
    """
    if on is None and one.config.data != other.config.data:
        on = other.packed().location
    return compare_measured(
        MeasuredRun.of(one, split, progress, on), MeasuredRun.of(other, split, progress, on), margins, on
    )


def compare_measured(
    one: MeasuredRun,
    other: MeasuredRun,
    margins: Margins = Margins(),
    on: Location | None = None,
) -> dict[str, Any]:
    """Compare two runs as `compare_runs` does. Raises DataError if the candidates differ."""
    folders = [side.evaluated.run.folder for side in (one, other)]
    split = one.evaluated.document["split"]
    if one.digest() != other.digest():
        raise DataError(
            f"{folders[1]}: its candidates of '{split}' are others than those of {folders[0]}; compare runs of one "
            "log and one data.split, or name the packed data to judge both on by --on"
        )
    changes = _config_changes(one.evaluated.run.config, other.evaluated.run.config)
    head = {"split": split, "a": str(folders[0]), "b": str(folders[1]), "changes": changes}
    if on is not None:
        lost = {"a": one.evaluated.document["lost"], "b": other.evaluated.document["lost"]}
        head |= {"on": str(on), "lost": lost}
    return compare_evaluations(head, one.measured, other.measured, margins)


def _config_changes(one: Config, other: Config) -> dict[str, dict[str, Any]]:
    """The keys in which two configs differ → the value of each; None where it has no such key."""
    ours, theirs = flatten(plain(one)), flatten(plain(other))
    return {
        key: {"a": ours.get(key), "b": theirs.get(key)}
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    }


def compare_evaluations(
    head: Mapping[str, Any], one: Evaluation, other: Evaluation, margins: Margins
) -> dict[str, Any]:
    """Compare all metrics that both evaluations have, stage by stage and label by label; `head` begins the document."""
    stages: dict[str, Any] = {}
    for name in (name for name in one.stages if name in other.stages):
        ours, theirs = one.stages[name], other.stages[name]
        stages[name] = {
            "exposed": _by_label("exposed", ours.exposed, theirs.exposed, margins),
            "candidates": _by_label("candidates", ours.candidates, theirs.candidates, margins),
        }
    cuts = {
        name: compare_measures("cut", cut, other.cuts[name], margins)
        for name, cut in one.cuts.items()
        if name in other.cuts
    }
    cascade = compare_measures("cascade", one.cascade, other.cascade, margins)
    margins.require_metrics(stages, *cuts.values(), cascade)
    return {
        **head,
        "requests": one.requests,
        "candidates": one.candidates,
        "margins": margins.document(),
        "stages": stages,
        "cuts": cuts,
        "cascade": cascade,
    }


def _by_label(
    population: Population, one: Mapping[str, Measures], other: Mapping[str, Measures], margins: Margins
) -> dict[str, dict[str, Any]]:
    labels = (label for label in one if label in other)
    return {label: compare_measures(population, one[label], other[label], margins) for label in labels}


def compare_measures(
    population: Population, one: Measures, other: Measures, margins: Margins, paired: bool = True
) -> dict[str, Any]:
    """Compare the metrics that both have: values `a` and `b`, the difference with its interval, and a verdict.

    `paired` says whether both are of the same rows, so that both share the resamples of users. `not_worse` says
    whether the interval excludes that a is worse by more than the margin.
    """
    comparisons: dict[str, Any] = {}
    for name in (name for name in one if name in other):
        ours, theirs = one[name], other[name]
        if ours is None or theirs is None:
            continue
        a, b = ours.value(), theirs.value()
        if a is None or b is None:
            continue
        resampled = replicates(ours), replicates(theirs, seed=0 if paired else 1)
        low, high = _bounds(resampled[0] - resampled[1])
        better = metric_direction(name, population)
        gain = _bounds(_merit(resampled[0], better) - _merit(resampled[1], better))
        comparisons[name] = {
            "a": a,
            "b": b,
            "difference": a - b,
            "low": low,
            "high": high,
            "margin": margins.of(name),
            "verdict": _verdict(*gain, margins.of(name)),
            "not_worse": gain[0] is not None and gain[0] >= -margins.of(name),
        }
    return comparisons


def _bounds(differences: Doubles) -> tuple[float | None, float | None]:
    """The 95 % percentile interval; None if all differences are NaN."""
    if np.isnan(differences).all():
        return None, None
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return float(low), float(high)


def _verdict(low: float | None, high: float | None, margin: float) -> str:
    if low is None or high is None:
        return WORDS[0]
    return WORDS[int(low > margin) - int(high < -margin)]


def _merit(values: Doubles, better: Direction) -> Doubles:
    """Turn values of a metric into numbers that are the higher the better."""
    if better == "one":
        return -np.abs(values - 1)
    return values if better == "higher" else -values
