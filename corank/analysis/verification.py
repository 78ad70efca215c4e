"""A bundle checked on logged requests: what a lower precision changes, and whether its scores are the run's.

Letters: n candidates.
"""

from dataclasses import dataclass, field
from math import inf, isfinite

import numpy as np

from corank.analysis.evaluated_run import predict_run
from corank.analysis.logged_request import logged_request
from corank.bundle.bundle import Bundle
from corank.bundle.stage_facts import TOLERANCE, PrecisionLoss, StageFacts, StageLoss
from corank.core.errors import DataError
from corank.core.ordering import top_k
from corank.core.types import Longs, Numbers
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predict import stage_values
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.run import Run

REQUESTS = 100
"""Logged requests that are compared."""
SPLITS = ("valid", "test", "train")
"""The first of these that has requests gives them."""


@dataclass
class _Differences:
    """Differences of precision at one stage."""

    recalls: list[float] = field(default_factory=list)
    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    score: float = 0.0

    def loss(self) -> StageLoss:
        """The figures."""
        return StageLoss(
            recall=min(1.0, float(np.mean(self.recalls))),
            max_probability=self.largest,
            mean_probability=self.total / self.count,
            max_score=self.score,
        )


@dataclass(frozen=True)
class LoggedLoss:
    """Compares the bundle of a run, as it is stored, with the same in fp32.

    Example:
        export_bundle(path, run.config, packed, model, calibrators, measure=LoggedLoss(run, packed))
    """

    run: Run
    packed: PackedDataset
    requests: int = REQUESTS

    def __call__(self, full: Bundle, stored: Bundle) -> PrecisionLoss:
        """Measure on logged requests. Raises ConfigError if a loss is beyond its bound, DataError without requests."""
        stages, settings = stored.manifest.stages, self.run.config.export
        funnels = Funnel(full), Funnel(stored)
        differences = {stage.name: _Differences() for stage in stages}
        candidates, requests = 0, self._read()
        for request in requests:
            (ids, exact, _), (_, rounded, _) = (funnel.predict(request) for funnel in funnels)
            candidates += len(ids)
            alive: tuple[Longs, Longs] = np.arange(len(ids)), np.arange(len(ids))
            for stage in stages:
                alive = _compare(stage, exact, rounded, alive, differences[stage.name])
        loss = PrecisionLoss(
            requests=len(requests),
            candidates=candidates,
            max_recall_loss=settings.recall_bound,
            max_probability_loss=settings.probability_bound,
            stages={name: one.loss() for name, one in differences.items()},
        )
        loss.require(settings.lowered)
        return loss

    def _read(self) -> list[Request]:
        """Some requests, evenly spread over a split."""
        split = next((name for name in SPLITS if any(map(len, self.packed.splits.get(name, ())))), None)
        if split is None:
            raise DataError(
                "export.precision: what it changes is measured on logged requests; there are none"
            )
        count = sum(map(len, self.packed.splits[split]))
        numbers = np.unique(np.linspace(0, count - 1, min(self.requests, count)).astype(int)).tolist()
        return [Request.parse(logged_request(self.run, split, n, self.packed)) for n in numbers]


def _compare(
    stage: StageFacts,
    exact: dict[str, Numbers],
    rounded: dict[str, Numbers],
    alive: tuple[Longs, Longs],
    differences: _Differences,
) -> tuple[Longs, Longs]:
    """Add the differences of one request at one stage. Returns the candidates that it keeps: in fp32, and as stored."""
    for label in stage.labels:
        key = f"probability.{stage.name}.{label}"
        changes = np.abs(exact[key].astype(np.float64) - rounded[key])
        differences.largest = max(differences.largest, float(changes.max()))
        differences.total += float(changes.sum())
        differences.count += len(changes)
    values = exact[f"value.{stage.name}"], rounded[f"value.{stage.name}"]
    scores = [one.astype(np.float64) for one in values]
    change = np.abs(scores[0] - scores[1]) / np.maximum(1, np.abs(scores[0]))
    differences.score = max(differences.score, float(change.max()))
    # with no more candidates than the quota, all are kept at any precision
    keep = min(stage.keep, max(1, len(alive[0]) // 2))
    kept = tuple(here[top_k(one[here], keep)] for one, here in zip(values, alive, strict=True))
    differences.recalls.append(float(np.isin(kept[0], kept[1]).mean()))
    return kept[0], kept[1]


@dataclass(frozen=True)
class Verification:
    """How far a bundle's scores of logged requests are from the model's."""

    requests: int
    scores: int
    """That were compared: one for each candidate and stage that it reached."""
    largest: float
    """The difference of a score that is largest by its stage's tolerance, relative to the score if that is above 1."""
    tolerance: float
    """Of that stage: 1e-5, plus the loss that the export measured if parts are in less than fp32."""
    request: int | None
    """Index, in the split, of the request with the largest difference; None if all are equal."""

    @property
    def reasons(self) -> list[str]:
        """Why the bundle may not go live; empty if it may."""
        if not self.scores:
            return ["verification: no score could be compared; the split has no request"]
        if self.largest <= self.tolerance:
            return []
        return [
            f"verification: request {self.request} has a score that is {self.largest:.2g} off the model's; "
            f"at most {self.tolerance:.2g} is allowed"
        ]


def verify_bundle(run: Run, bundle: Funnel, requests: int, split: str = "test") -> Verification:
    """Send logged requests, evenly spread over a split, through a funnel, and compare all scores.

    Args:
        run: a finished run, the bundle's.
        bundle: the funnel of its bundle.
        requests: how many; all if the split has fewer.
        split: whose requests.

    Raises DataError, CheckpointError, RequestError.
    """
    packed, _, calibrators, predictions, _ = predict_run(run, split)
    expected = {
        stage.name: stage_values(predictions, stage, calibrators[stage.name]) for stage in run.config.stages
    }
    start = predictions.requests.start
    numbers = np.unique(np.linspace(0, len(start) - 2, min(requests, len(start) - 1)).astype(int)).tolist()
    loss = bundle.manifest.precision_loss
    allowed = {name: loss.stages[name].tolerance if loss else TOLERANCE for name in expected}
    gaps: list[tuple[float, float, float, int]] = []
    for number in numbers:
        answer = bundle.rank(logged_request(run, split, number, packed))
        for n, candidate in enumerate(answer["trace"], int(start[number])):
            for stage, served in candidate["stages"].items():
                score = float(expected[stage][n])
                gap = abs(served["score"] - score) / max(1.0, abs(score))
                gap = gap if isfinite(gap) else inf
                gaps.append((gap / allowed[stage], gap, allowed[stage], number))
    _, largest, tolerance, worst = max(gaps, default=(0.0, 0.0, TOLERANCE, None))
    return Verification(len(numbers), len(gaps), largest, tolerance, worst)
