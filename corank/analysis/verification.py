"""A bundle checked on logged requests: what a lower precision changes, and whether its scores are the run's.

Letters: n candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

import numpy as np

from corank.analysis.logged_request import logged_request
from corank.analysis.run_evaluation import predict_run
from corank.bundle.bundle import Bundle
from corank.bundle.stage_facts import TOLERANCE, PrecisionLoss, StageFacts, StageLoss
from corank.core.errors import DataError
from corank.core.ordering import top_k
from corank.core.types import Doubles, Longs, Numbers
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predictions import stage_values
from corank.funnel.conformance import difference
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.run import Run

REQUESTS = 100
"""Logged requests that are compared."""
SPLITS = ("valid", "test", "train")
"""The first of these that has requests gives them."""


@dataclass
class _Differences:
    """Differences of precision at one stage."""

    recalls: list[float] = field(default_factory=list)
    probabilities: list[Doubles] = field(default_factory=list)
    score: float = 0.0

    def loss(self) -> StageLoss:
        """The figures."""
        changes = self.probabilities
        return StageLoss(
            recall=min(1.0, float(np.mean(self.recalls))),
            max_probability=max(0.0, *(float(change.max()) for change in changes)),
            mean_probability=sum(float(change.sum()) for change in changes) / sum(map(len, changes)),
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
            alive: list[Longs] = [np.arange(len(ids))] * 2
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
        numbers = _spread(sum(map(len, self.packed.splits[split])), self.requests)
        return [Request.parse(logged_request(self.run, split, n, self.packed)) for n in numbers]


def _spread(requests: int, most: int) -> list[int]:
    """Numbers of requests, evenly spread over a split that has so many."""
    numbers: list[int] = np.unique(np.linspace(0, requests - 1, min(most, requests)).astype(int)).tolist()
    return numbers


def _compare(
    stage: StageFacts,
    exact: dict[str, Numbers],
    rounded: dict[str, Numbers],
    alive: Sequence[Longs],
    differences: _Differences,
) -> list[Longs]:
    """Add the differences of one request at one stage. Returns the candidates that it keeps: in fp32, and as stored."""
    for label in stage.labels:
        key = f"probability.{stage.name}.{label}"
        differences.probabilities.append(np.abs(exact[key].astype(np.float64) - rounded[key]))
    scores = [one[f"value.{stage.name}"].astype(np.float64) for one in (exact, rounded)]
    gap = np.abs(scores[0] - scores[1]) / np.maximum(1, np.abs(scores[0]))
    differences.score = max(differences.score, float(gap.max()))
    # with no more candidates than the quota, all are kept at any precision
    keep = min(stage.keep, max(1, len(alive[0]) // 2))
    kept = [here[top_k(one[here], keep)] for one, here in zip(scores, alive, strict=True)]
    differences.recalls.append(float(np.isin(kept[0], kept[1]).mean()))
    return kept


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
    predicted = predict_run(run, split)
    packed, calibrators, predictions = predicted.packed, predicted.calibrators, predicted.predictions
    expected = {
        stage.name: stage_values(predictions, stage, calibrators[stage.name]) for stage in run.config.stages
    }
    start = predictions.requests.start
    numbers = _spread(len(start) - 1, requests)
    loss = bundle.manifest.precision_loss
    allowed = {name: loss.stages[name].tolerance if loss else TOLERANCE for name in expected}
    gaps: list[tuple[float, float, float, int]] = []
    for number in numbers:
        answer = bundle.rank(logged_request(run, split, number, packed))
        for n, candidate in enumerate(answer["trace"], int(start[number])):
            for stage, served in candidate["stages"].items():
                gap = difference(served["score"], float(expected[stage][n]))
                gap = gap if isfinite(gap) else inf
                gaps.append((gap / allowed[stage], gap, allowed[stage], number))
    _, largest, tolerance, worst = max(gaps, default=(0.0, 0.0, TOLERANCE, None))
    return Verification(len(numbers), len(gaps), largest, tolerance, worst)
