"""Two tables of figures joined: each metric's difference, with an interval over users and a verdict; and two runs."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from corank.analysis.run_evaluation import Evaluation, predict_run
from corank.core.errors import DataError
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.evaluation.rows import KEYS, judge
from corank.evaluation.table import Figure, reasons_of
from corank.metrics.intervals import percentiles, replicates
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

    def require_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Raise DataError if a metric is named that is in no row of a comparison."""
        names = dict.fromkeys(row["metric"] for row in rows)
        for metric in self.by_metric:
            if metric not in names:
                raise DataError(f"--margin: no metric '{metric}' was compared; there are {', '.join(names)}")


def hash_candidates(evaluated: Evaluation) -> bytes:
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
    one: Evaluation,
    other: Evaluation,
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
    facts = {**head, "changes": changes, **judged, **one.predictions.counts}
    return join_document(facts, one.figures, other.figures, margins)


def join_document(
    facts: Mapping[str, Any], one: Iterable[Figure], other: Iterable[Figure], margins: Margins
) -> dict[str, Any]:
    """The document of a comparison: the rows, with `facts`, the margins, and why figures are missing.

    Raises DataError for an unknown margin.
    """
    ours, theirs = list(one), list(other)
    rows = join_figures(ours, theirs, margins)
    margins.require_metrics(rows)
    document = {"rows": rows, **facts, "margins": margins.document()}
    reasons = reasons_of([*theirs, *ours])
    return document | ({"reasons": reasons} if reasons else {})


def join_figures(
    one: Iterable[Figure], other: Iterable[Figure], margins: Margins = Margins(), paired: bool = True
) -> list[dict[str, Any]]:
    """Join two tables: a row for each figure that both define, with its difference and a verdict on the first.

    `paired` says whether both are of the same rows, so that both share the resamples of users. `not_worse` says
    whether the interval excludes that the first is worse by more than the margin.
    """
    others = {figure.place: figure for figure in other if figure.value is not None}
    return [
        _join(figure, others[figure.place], margins.of(figure.place[-1]), paired)
        for figure in one
        if figure.value is not None and figure.place in others
    ]


def _join(one: Figure, other: Figure, margin: float, paired: bool) -> dict[str, Any]:
    assert one.value is not None and other.value is not None and other.measure is not None
    resampled = one.replicates, other.replicates if paired else replicates(other.measure, seed=1)
    merits = [one.metric.merit(values) for values in resampled]
    bounds = [None if one.of_one_user else percentiles(a - b) for a, b in (resampled, merits)]
    (low, high), (worst, best) = (found or (None, None) for found in bounds)
    return {
        **dict(zip(KEYS, one.place, strict=True)),
        "a": one.value,
        "b": other.value,
        "difference": one.value - other.value,
        "low": low,
        "high": high,
        "n": one.n,
        "n_b": other.n,
        "better": one.metric.better,
        "margin": margin,
        "verdict": judge(worst, best, margin),
        "not_worse": worst is not None and worst >= -margin,
    }
