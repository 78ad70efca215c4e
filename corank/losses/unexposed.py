"""Loss `unexposed`: candidates that were not shown, as negatives of the pre-ranker, against sample selection bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field, PositiveInt

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, StageLoss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("unexposed")
class UnexposedLoss(StageLoss):
    """Negatives: L = weighted mean of softplus(z) = BCE(z, 0) over candidates of the levels `from`.

    Besides levels of the log, `from` may name `batch`, items of the batch's other requests, and `catalogue`, items
    of the training log. These are easy negatives, and the only ones if the log holds exposures alone.
    """

    model_config = ConfigDict(populate_by_name=True)  # `from` is a word of Python

    kind: Literal["unexposed"] = "unexposed"
    levels: list[str] = Field(alias="from", min_length=1)
    """Levels of the log, or `batch` or `catalogue` for items beyond it."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all of a level unless given."""

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        funnel.check_sources(self.levels, self.per_request, key, "from")

    def hard_negatives(self, funnel: FunnelSpec) -> set[int]:
        return set(self.population(funnel))

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.source_code(level, "from"): self.per_request for level in self.levels}

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        rows = counts.rows(self.population(funnel))
        return Targets(rows, 0, rows)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        z = outputs[self.stage].logits[self.label]
        values = torch.nn.functional.softplus(z)
        return values, self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        return batch.weight * batch.in_population(self.population(funnel))
