"""Loss `levels_bce`: candidates of the positive levels are ones, those of other levels zeros.

Letters: C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, StageLoss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("levels_bce")
class LevelsBceLoss(StageLoss):
    """L = mean of BCE(z, y) over candidates, y = 1 in the levels `positive`, z the logit over the temperature."""

    kind: Literal["levels_bce"] = "levels_bce"
    on: list[str] | None = Field(default=None, min_length=1)
    """Levels of the candidates; all unless given."""
    positive: list[str] | None = Field(default=None, min_length=1)
    """Levels of the positives; the deepest unless given."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all unless given."""
    temperature: PositiveFloat = 1.0
    """Divides the logits."""

    def _positive(self, funnel: FunnelSpec) -> Sequence[str]:
        return self.positive or [max(self.on or funnel.levels, key=funnel.levels.index)]

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        on = {funnel.logged_code(level, f"{key}.on") for level in self.on or funnel.levels}
        if not {funnel.logged_code(level, f"{key}.positive") for level in self._positive(funnel)} < on:
            raise ConfigError(
                f"{key}.positive: must be some, but not all, of the levels "
                f"{', '.join(self.on or funnel.levels)}; received {', '.join(self._positive(funnel))}"
            )

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.levels.index(level): self.per_request for level in self.on or funnel.levels}

    def _positives(self, funnel: FunnelSpec) -> Population:
        population = self.population(funnel)
        return {code: population[code] for code in map(funnel.levels.index, self._positive(funnel))}

    def hard_negatives(self, funnel: FunnelSpec) -> set[int]:
        return self.population(funnel).keys() - self._positives(funnel)

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        rows, positives = counts.rows(self.population(funnel)), counts.rows(self._positives(funnel))
        return Targets(rows, positives, rows - positives)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        z = outputs[self.stage].logits[self.label] / self.temperature
        positive = batch.in_population(self._positives(funnel)).float()
        values = torch.nn.functional.binary_cross_entropy_with_logits(z, positive, reduction="none")
        return values, self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        return batch.weight * batch.in_population(self.population(funnel))
