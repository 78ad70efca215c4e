"""Settings that losses of the whole funnel share: all stages learn at once, from the same candidates."""

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.losses.base import FunnelSpec, Loss


class FunnelLoss(Loss):
    """A loss from which all stages learn at once, so that the candidates that matter come through all of them."""

    stages: list[str] | None = Field(default=None, min_length=1)
    """The stages that learn; all unless given."""
    label: str = "click"
    """The label whose logits order the candidates."""
    positive: list[str] = Field(min_length=1)
    """Levels of the candidates that should survive."""
    on: list[str] | None = Field(default=None, min_length=1)
    """Levels of the candidates that compete; all unless given."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all unless given."""
    top: PositiveInt | None = None
    """Candidates that each stage keeps in the loss; the stage's `keep` unless given. As many as there are positives is
    easier to learn than a longer quota, into which most candidates would fit."""

    @model_validator(mode="after")
    def _check_positive(self) -> Self:
        if self.on is not None and not set(self.positive) <= set(self.on):
            raise ValueError(f"positive must be among on {self.on}; received {self.positive}")
        return self

    @property
    def learner(self) -> None:
        return None

    def reads(self, funnel: FunnelSpec) -> list[str]:
        return list(funnel.keep) if self.stages is None else self.stages

    def check(self, funnel: FunnelSpec, key: str) -> None:
        for stage in self.reads(funnel):
            funnel.check_label(stage, self.label, f"{key}.stages")
        for level in self.on or funnel.levels:
            funnel.logged_code(level, f"{key}.on")
        for level in self.positive:
            funnel.logged_code(level, f"{key}.positive")
        if set(self.positive) >= set(self.on or funnel.levels):
            raise ConfigError(f"{key}.positive: every candidate would be one; received {self.positive}")

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.levels.index(level): self.per_request for level in self.on or funnel.levels}

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        population = self.population(funnel)
        rows = counts.rows(population)
        codes = [funnel.levels.index(level) for level in self.positive]
        positives = counts.rows({code: population[code] for code in codes})
        return Targets(rows, positives, rows - positives)
