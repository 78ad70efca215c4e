"""Settings that losses over the labels of a request's candidates share."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.losses.base import FunnelSpec, Loss


class LabelListLoss(Loss):
    """A loss over lists: the exposed candidates of a request, ordered by their labels.

    A candidate's grade is the best of `labels` that is 1. It is unknown, and the candidate left out, where the next
    better label is unknown: of [order, click], a click whose order is not mature yet. z is the stage's logit, with the
    learnt effect of the position as in `click`, over the temperature.

    Only differences of logits within a request are learnt: what is the same for all its candidates gets no gradient,
    and the logits need calibration to be probabilities.
    """

    stage: str
    """The stage to train."""
    label: str = "click"
    """Which of the stage's logits learns."""
    labels: list[str] | None = Field(default=None, min_length=1)
    """Labels that order, the best first; `label` alone unless given."""
    gains: list[PositiveFloat] | None = None
    """What each of `labels` is worth; 2^g − 1 unless given, g = 1 for the last."""
    temperature: PositiveFloat = 1.0
    """Divides the logits."""

    @model_validator(mode="after")
    def _check_gains(self) -> Self:
        labels, gains = self.labels or [self.label], self.gains
        if len(set(labels)) < len(labels):
            raise ValueError(f"labels: each label once; received {', '.join(labels)}")
        if gains is None:
            return self
        if len(labels) < 2:
            raise ValueError(
                "gains: with a single label they change nothing; drop gains, or give several labels"
            )
        if len(gains) != len(labels) or sorted(set(gains), reverse=True) != gains:
            raise ValueError(
                f"gains: expected {len(labels)} falling numbers, one a label of {', '.join(labels)}; received {gains}"
            )
        return self

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.kind}"

    @property
    def learner(self) -> str:
        return self.stage

    @property
    def order(self) -> Sequence[str]:
        """The labels that order, the best first."""
        return self.labels or [self.label]

    @property
    def gain_of_grade(self) -> list[float]:
        """The gain of each grade, from 0."""
        gains = self.gains or [2.0**grade - 1 for grade in range(len(self.order), 0, -1)]
        return [0.0, *reversed(gains)]

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, self.label, f"{key}.stage")
        for label in self.order:
            if label not in funnel.labels:
                raise ConfigError(
                    f"{key}.labels: no label '{label}'; data.labels are {', '.join(funnel.labels)}"
                )

    def population(self, funnel: FunnelSpec) -> Population:
        return {len(funnel.levels) - 1: None}

    def needed_labels(self) -> Sequence[str]:
        return self.order

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        """Rows of requests that hold a 1 and a 0 of a label; of several labels, of the one that has the most."""
        mixed_counts = [counts.mixed[label] for label in self.order]
        return Targets(
            max(mixed.positives + mixed.negatives for mixed in mixed_counts),
            max(mixed.positives for mixed in mixed_counts),
            max(mixed.negatives for mixed in mixed_counts),
        )
