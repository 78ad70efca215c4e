"""What a lower precision of stored parts changes, as an export measured it on logged requests."""

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Le
from pydantic import AllowInfNan, PositiveInt

from corank.bundle.stage_facts import StageFacts
from corank.core.errors import ConfigError
from corank.core.matrices.stored_matrix import Precision, bytes_a_row
from corank.core.settings import Settings

TOLERANCE = 1e-5
"""Largest difference between an offline score and the served one in fp32, relative to it if it is above 1."""
MARGIN = 2
"""The tolerance of a lower precision is this many times what an export measured: other requests may differ more."""

Share = Annotated[float, Ge(0), Le(1)]
Difference = Annotated[float, Ge(0), AllowInfNan(False)]


class StageLoss(Settings):
    """What changes at one stage, between parts as they are stored and parts in fp32."""

    recall: Share
    """Of the candidates that the stage keeps in fp32, the share that it keeps as stored: the mean over requests. It
    keeps its quota, or half of its candidates where there are fewer than twice as many."""
    max_probability: Share
    """The largest change of a calibrated probability, over all labels and candidates."""
    mean_probability: Share
    """The mean change."""
    max_score: Difference
    """The largest change of a score, relative to it if it is above 1."""

    @property
    def tolerance(self) -> float:
        """Largest difference between an offline score in fp32 and the served one, relative to it if it is above 1."""
        return TOLERANCE + MARGIN * self.max_score


class PrecisionLoss(Settings):
    """What an export measured, and the bounds that it kept."""

    requests: PositiveInt
    """Logged requests that it was measured on."""
    candidates: PositiveInt
    """Their candidates."""
    max_recall_loss: Share
    """The bound of 1 − recall of each stage."""
    max_probability_loss: Share
    """The bound of each stage's largest change of a probability."""
    stages: dict[str, StageLoss]

    def require(self, lowered: Mapping[str, Precision]) -> None:
        """Raise ConfigError if a stage is beyond a bound. `lowered` are the precisions by `STAGE.PART`."""
        stored = ", ".join(f"{name} in {precision}" for name, precision in lowered.items())
        for name, loss in self.stages.items():
            checks = (
                (
                    "max_recall_loss",
                    1 - loss.recall,
                    self.max_recall_loss,
                    f"stage '{name}' keeps {loss.recall:.4f} of what it keeps in fp32",
                ),
                (
                    "max_probability_loss",
                    loss.max_probability,
                    self.max_probability_loss,
                    f"a probability of stage '{name}' changes by {loss.max_probability:.2g}",
                ),
            )
            for key, measured, bound, what in checks:
                if measured > bound:
                    raise ConfigError(
                        f"export.precision: with {stored}, {what} on {self.requests} logged requests, and "
                        f"export.{key} is {bound:g}; store more precisely, or allow more; nothing was written"
                    )

    def lines(self, stages: list[StageFacts]) -> list[str]:
        """Describe it, a line for all parts and a line a stage."""
        sizes = [
            f"{stage.name}.{part} {stage.precision.get(part, 'fp32')}, "
            f"{bytes_a_row(width, stage.precision.get(part, 'fp32'))} bytes an item ({4 * width} in fp32)"
            for stage in stages
            for part, width in stage.item_parts.items()
        ]
        lines = [f"precision: {'; '.join(sizes)}"]
        for stage in stages:
            loss = self.stages[stage.name]
            lines.append(
                f"precision of {stage.name}: recall@{stage.keep} {loss.recall:.4f}, change of a probability "
                f"{loss.max_probability:.2g} at most, {loss.mean_probability:.2g} on average; offline and online "
                f"scores agree to {loss.tolerance:.2g}; on {self.requests} logged requests"
            )
        return lines
