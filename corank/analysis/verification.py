"""A bundle checked on logged requests: what a lower precision changes, and whether its scores are the run's.

Letters: n candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from corank.analysis.logged_request import logged_request
from corank.analysis.run_evaluation import predict_run
from corank.bundle.bundle import Bundle
from corank.bundle.stage_facts import TOLERANCE, PrecisionLoss, StageFacts, StageLoss
from corank.core.errors import DataError
from corank.core.ordering import top_k
from corank.core.types import Doubles, Longs, Numbers
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.agreement import Agreement, gaps
from corank.evaluation.predictions import stage_values
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
    differences.score = max(differences.score, float(gaps(scores[1], scores[0]).max()))
    # with no more candidates than the quota, all are kept at any precision
    keep = min(stage.keep, max(1, len(alive[0]) // 2))
    kept = [here[top_k(one[here], keep)] for one, here in zip(scores, alive, strict=True)]
    differences.recalls.append(float(np.isin(kept[0], kept[1]).mean()))
    return kept


def verify_bundle(run: Run, bundle: Funnel, requests: int, split: str = "test") -> Agreement:
    """Send logged requests, evenly spread over a split, through a funnel, and compare all scores with the model's.

    A stage's tolerance is 1e-5, plus the loss that the export measured if parts are in less than fp32.

    Args:
        run: a finished run, the bundle's.
        bundle: the funnel of its bundle.
        requests: how many; all if the split has fewer.
        split: whose requests.

    Raises DataError, CheckpointError, RequestError.
    """
    predicted, agreement = predict_run(run, split), Agreement()
    packed, calibrators, predictions = predicted.packed, predicted.calibrators, predicted.predictions
    expected = {
        stage.name: stage_values(predictions, stage, calibrators[stage.name]) for stage in run.config.stages
    }
    start, loss = predictions.requests.start, bundle.manifest.precision_loss
    for number in _spread(len(start) - 1, requests):
        trace = bundle.rank(logged_request(run, split, number, packed))["trace"]
        for stage, values in expected.items():
            reached = [n for n, candidate in enumerate(trace) if stage in candidate["stages"]]
            served = [trace[n]["stages"][stage]["score"] for n in reached]
            apart = gaps(served, values[start[number] + np.array(reached, dtype=np.int64)])
            tolerance = loss.stages[stage].tolerance if loss else TOLERANCE
            agreement.add(stage, "score", apart, tolerance, f"request {number}")
    return agreement
