"""What a loss is: a formula over candidates. Masking, averaging and weighting are written here, once.

Letters: C candidates · L levels.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from corank.batch import Batch
from corank.errors import ConfigError
from corank.joint import Logits
from corank.sampling import Population
from corank.settings import Settings

__all__ = ["Logits", "Scope", "Term", "mean"]


@dataclass(frozen=True)
class Scope:
    """The names that a loss may use."""

    levels: Sequence[str]
    labels: Sequence[str]
    stages: Mapping[str, Sequence[str]]
    """Stage → the labels it predicts, in the order of the cascade."""

    def level(self, name: str, key: str) -> int:
        if name not in self.levels:
            raise ConfigError(f"{key}: no level '{name}'; data.levels are {', '.join(self.levels)}")
        return self.levels.index(name)

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

    weight: NonNegativeFloat = 1.0
    """Factor of this loss in the total."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How the term is called where it is reported."""

    @abstractmethod
    def check(self, scope: Scope, key: str) -> None:
        """Raise ConfigError if the loss names a level, label or stage that there is not."""

    @abstractmethod
    def population(self, scope: Scope) -> Population:
        """The candidates to read for this loss."""

    @abstractmethod
    def values(self, logits: Logits, batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        """Loss and weight of every candidate, weight 0 where it is masked: (C,), (C,)."""

    def factor(self, step: int) -> float:
        """Factor at an optimiser step, `weight` unless the loss warms up."""
        return self.weight


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Σ w·l / Σ w over unmasked candidates, and 0 where there are none."""
    kept = torch.where(weights > 0, values, 0)
    return (kept * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
