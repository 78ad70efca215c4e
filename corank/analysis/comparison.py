"""Two runs compared on the same rows: each metric's difference, with a paired interval over users and a verdict."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any, Self

import numpy as np

from corank.analysis.comparison_page import WORDS
from corank.analysis.evaluated_run import EvaluatedRun, predict_run
from corank.core.errors import DataError
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.types import Doubles
from corank.evaluation.measures import Evaluation, Measures
from corank.metrics.inputs import Population
from corank.metrics.intervals import replicates
from corank.metrics.metric import Direction, metric_direction
from corank.training.config.config_file import flatten, plain
from corank.training.run import Run

TREES = "trees"
"""The name, in place of a run, of the cascade of boosted trees that is trained to be compared with."""


@dataclass(frozen=True)
class Margins:
    """How large a difference must be to count, in the unit of the metric."""

    default: float = 0.0
    by_metric: Mapping[str, float] = field(default_factory=dict)
    """That of some metrics, such as `click_recall@50`."""

    @classmethod
    def read(cls, given: Iterable[str]) -> Self:
        """Read `NUMBER` and `METRIC=NUMBER`. Raises DataError for what is neither, or below 0."""
        margins = {"": 0.0}
        for text in given:
            metric, equals, number = text.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not 0 <= value < float("inf") or bool(equals) != bool(metric):
                raise DataError(f"--margin: expected NUMBER or METRIC=NUMBER, 0 or more; received {text!r}")
            margins[metric] = value
        return cls(margins.pop(""), margins)

    def of(self, metric: str) -> float:
        """The margin of a metric."""
        return self.by_metric.get(metric, self.default)

    def document(self) -> dict[str, float]:
        """All margins by metric; that of all others is `all`."""
        return {"all": self.default, **self.by_metric}

    def require_metrics(self, stages: Mapping[str, Any], *others: Mapping[str, Any]) -> None:
        """Raise DataError if a metric is named that was not compared: of stages by population and label, or others."""
        parts = [
            m for populations in stages.values() for labels in populations.values() for m in labels.values()
        ]
        names = dict.fromkeys(chain(*parts, *others))
        for metric in self.by_metric:
            if metric not in names:
                raise DataError(f"--margin: no metric '{metric}' was compared; there are {', '.join(names)}")


def hash_candidates(evaluated: EvaluatedRun) -> bytes:
    """Hash the candidates of a split: requests, users, items, levels and labels."""
    packed, predictions = evaluated.packed, evaluated.predictions
    digest = hashlib.sha256(predictions.requests.start.tobytes())
    digest.update(np.ascontiguousarray(predictions.requests.user).tobytes())
    digest.update(predictions.level.tobytes())
    for name, label in sorted(predictions.labels.items()):
        digest.update(name.encode() + label.tobytes())
    for shard in packed.splits[evaluated.split]:
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
    ours, theirs = (predict_run(run, split, progress, on) for run in (one, other))
    return compare_predicted(ours, theirs, margins, on)


def compare_predicted(
    one: EvaluatedRun,
    other: EvaluatedRun,
    margins: Margins = Margins(),
    on: Location | None = None,
) -> dict[str, Any]:
    """Compare two runs as `compare_runs` does. Raises DataError if the candidates differ."""
    folders, split = [side.run.folder for side in (one, other)], one.split
    if hash_candidates(one) != hash_candidates(other):
        raise DataError(
            f"{folders[1]}: its candidates of '{split}' are others than those of {folders[0]}; compare runs of one "
            "log and one data.split, or name the packed data to judge both on by --on"
        )
    head = {"split": split, "a": str(folders[0]), "b": str(folders[1])}
    ours, theirs = (flatten(plain(side.run.config)) for side in (one, other))
    changes = {
        key: {"a": ours.get(key), "b": theirs.get(key)}
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    }
    judged = {}
    if on is not None:
        judged = {"on": str(on), "lost": {"a": dict(one.lost), "b": dict(other.lost)}}
    return compare_evaluations(
        {**head, "changes": changes, **judged}, one.evaluation, other.evaluation, margins
    )


def compare_evaluations(
    head: Mapping[str, Any], one: Evaluation, other: Evaluation, margins: Margins
) -> dict[str, Any]:
    """Compare all metrics that both evaluations have, stage by stage and label by label; `head` begins the document."""
    stages: dict[str, dict[str, Any]] = {}
    populations: tuple[Population, ...] = ("exposed", "candidates")
    for name, population in product((name for name in one.stages if name in other.stages), populations):
        ours, theirs = (getattr(side.stages[name], population) for side in (one, other))
        stages.setdefault(name, {})[population] = {
            label: compare_measures(population, ours[label], theirs[label], margins)
            for label in ours
            if label in theirs
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


def compare_measures(
    population: Population, one: Measures, other: Measures, margins: Margins, paired: bool = True
) -> dict[str, Any]:
    """Compare the metrics that both have: values `a` and `b`, the difference with its interval, and a verdict.

    `paired` says whether both are of the same rows, so that both share the resamples of users. `not_worse` says
    whether the interval excludes that a is worse by more than the margin.
    """
    comparisons: dict[str, Any] = {}
    for name, ours in one.items():
        theirs = other.get(name)
        a, b = (None if side is None else side.value() for side in (ours, theirs))
        if ours is None or theirs is None or a is None or b is None:
            continue
        resampled = replicates(ours), replicates(theirs, seed=0 if paired else 1)
        low, high = _bounds(resampled[0] - resampled[1])
        better, margin = metric_direction(name, population), margins.of(name)
        worst, best = _bounds(_merit(resampled[0], better) - _merit(resampled[1], better))
        comparisons[name] = {
            "a": a,
            "b": b,
            "difference": a - b,
            "low": low,
            "high": high,
            "margin": margin,
            "verdict": WORDS[0 if worst is None or best is None else (worst > margin) - (best < -margin)],
            "not_worse": worst is not None and worst >= -margin,
        }
    return comparisons


def _bounds(differences: Doubles) -> tuple[float | None, float | None]:
    """The 95 % percentile interval; None if all differences are NaN."""
    if np.isnan(differences).all():
        return None, None
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return float(low), float(high)


def _merit(values: Doubles, better: Direction) -> Doubles:
    """Turn values of a metric into numbers that are the higher the better."""
    if better == "one":
        return -np.abs(values - 1)
    return values if better == "higher" else -values
