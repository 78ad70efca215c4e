"""A bundle verified: what it answers to logged requests, against what the run's model computes of the same rows."""

from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from corank.analysis.evaluated_run import predict_run
from corank.analysis.logged_request import logged_request
from corank.bundle.precision.precision_loss import TOLERANCE
from corank.evaluation.stage_order import stage_values
from corank.serving.funnel.funnel import Funnel
from corank.training.run import Run


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
