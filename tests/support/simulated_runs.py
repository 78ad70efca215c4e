"""What tests of runs share: a callback that keeps what it receives, and a longer validation."""

import corank
from corank.training.callbacks import TrainingEvaluation, TrainingLog


class Silent(corank.Callback):
    """A callback that keeps what it receives."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.figures: list[dict[str, float | None]] = []

    def on_log(self, event: TrainingLog) -> None:
        self.losses.append(dict(event.losses))

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        self.figures.append(event.learnt)


LONG = {"valid: 2026-03-09, test: 2026-03-10": "valid: 2026-03-04, test: 2026-03-08"}
"""Seven days of ten to validate and test on, so that verdicts of a small world rest on enough requests."""
