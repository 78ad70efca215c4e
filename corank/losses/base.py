"""What a loss is: a formula over candidates. Masking, averaging and weighting are written here, once.

Letters: R requests · C candidates.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.sampling import SOURCES, Population
from corank.core.errors import ConfigError
from corank.core.settings import Settings
from corank.models.stage_io import StageOutput


@dataclass(frozen=True)
class Scope:
    """The names that a loss may use."""

    levels: Sequence[str]
    labels: Sequence[str]
    stages: Mapping[str, Sequence[str]]
    """Stage → the labels it predicts, in the order of the cascade."""
    keep: Mapping[str, int] = field(default_factory=dict)
    """Stage → its quota."""
    towers: Sequence[str] = ()
    """The stages that have vectors."""
    scores: Sequence[str] = ()
    """The logged scores."""
    levelled: bool = True
    """Whether the log tells how far a candidate got."""

    def level(self, name: str, key: str) -> int:
        if name not in self.levels:
            raise ConfigError(f"{key}: no level '{name}'; data.levels are {', '.join(self.levels)}")
        return self.levels.index(name)

    def source(self, name: str, key: str) -> int:
        """The code of a level, or of a source beyond the log. Raises ConfigError for a level that is never logged."""
        if name in SOURCES:
            return SOURCES[name]
        if not self.levelled and name != self.levels[-1]:
            raise ConfigError(
                f"{key}: the log has no levels (data.level is not given), so nobody knows what was {name} and not "
                f"shown; write {' or '.join(SOURCES)} for negatives beyond the log"
            )
        return self.level(name, key)

    def logged(self, name: str, key: str) -> int:
        """The code of a level of the log. Raises ConfigError for a source beyond it, and for what is never logged."""
        self.level(name, key)
        return self.source(name, key)

    def check(self, stage: str, label: str, key: str) -> None:
        if stage not in self.stages:
            raise ConfigError(f"{key}: no stage '{stage}'; stages are {', '.join(self.stages)}")
        if label not in self.stages[stage]:
            raise ConfigError(
                f"{key}: stage '{stage}' does not predict the label '{label}'; "
                f"it predicts {', '.join(self.stages[stage])}"
            )


class Term(Settings):
    """One loss of the config."""

    kind: str
    weight: NonNegativeFloat = 1.0
    """Factor of this loss in the total."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How the term is called where it is reported."""

    @property
    @abstractmethod
    def learner(self) -> str | None:
        """The one stage that learns from the term; None where several do."""

    def reads(self, scope: Scope) -> list[str]:
        """The stages whose logits the term takes."""
        return list(scope.stages) if self.learner is None else [self.learner]

    def teachers(self) -> list[str]:
        """The stages, teachers or logged scores whose scores the learner learns from; none unless the loss distils."""
        return []

    def zeros(self, scope: Scope) -> set[int]:
        """The levels whose candidates the term takes for hard negatives, whatever is known of them."""
        return set()

    @abstractmethod
    def check(self, scope: Scope, key: str) -> None:
        """Raise ConfigError if the loss names a level, label or stage that there is not."""

    @abstractmethod
    def population(self, scope: Scope) -> Population:
        """The candidates to read for this loss."""

    @abstractmethod
    def values(self, outputs: Mapping[str, StageOutput], batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        """Losses and their weights: of candidates (C,) or some of them, or of requests (R,); weight 0 where masked."""

    def factor(self, step: int) -> float:
        """Factor at an optimiser step, `weight` unless the loss warms up."""
        return self.weight


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Σ w·l / Σ w over unmasked candidates, and 0 where there are none."""
    kept = torch.where(weights > 0, values, 0)
    return (kept * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
