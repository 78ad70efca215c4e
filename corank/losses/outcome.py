"""Loss `outcome`: what users did later by any path, a label of all levels that the funnel's cuts did not choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from corank.batches.sampling import ITEM, OUTCOMES, Outcomes, Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.core.settings import describe_unknown, require_known
from corank.losses.base import LOSSES, FunnelSpec, StageLoss
from corank.losses.padded import FAR, PaddedLists

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("outcome")
class OutcomeLoss(StageLoss):
    """A candidate with an outcome must lead others of its request, of any level, that have none.

    L = mean over outcomes i of −log softmax(z + b) of i among i and the drawn others, with b = ln of the rate at which
    users act on the item, counted in training and smoothed (`corank.batches.outcomes.smooth_rates`).

    If a user acts on item j by the other path with probability a_j·p_j, a_j for how well it is known there, the sampled
    softmax over z + ln a has its minimum at z = ln p. Serving leaves b out. The softmax knows nothing of the level of
    z, so that calibrated clicks stay what they are. Source of the corrected softmax: Bengio and Senécal, IEEE
    Transactions on Neural Networks 19(4), 2008.
    """

    kind: Literal["outcome"] = "outcome"
    of: str
    """The label of the outcome, `known: everywhere`. The logits of `label` learn from it."""
    per_request: PositiveInt = 10
    """Others that are drawn of each request with an outcome."""
    bias: str | None = ITEM
    """What the rates are counted by: `item`, a feature of items with one code, or null for no correction."""

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.of}"

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        require_known(self.of, funnel.labels, f"{key}.of", "label", "data.labels")
        if self.of not in funnel.everywhere:
            raise ConfigError(
                f"{key}.of: '{self.of}' is known where exposed alone; take kind: click, or write known: everywhere at "
                f"data.labels.{self.of} if its column has candidates of all levels"
            )
        if self.bias not in (None, ITEM, *funnel.item_ids):
            known = [ITEM, *funnel.item_ids]
            raise ConfigError(f"{key}.bias: {describe_unknown(str(self.bias), known, 'feature of items')}")

    def population(self, funnel: FunnelSpec) -> Population:
        return {self._code(funnel): self.per_request}

    def _code(self, funnel: FunnelSpec) -> int:
        return OUTCOMES - funnel.everywhere.index(self.of)

    def outcomes(self, funnel: FunnelSpec) -> Mapping[int, Outcomes]:
        return {self._code(funnel): Outcomes(self.of, self.bias)}

    def needed_labels(self) -> Sequence[str]:
        return [self.of]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        mixed = counts.mixed[self.of]
        others = min(mixed.negatives, mixed.requests * self.per_request)
        return Targets(mixed.positives + others, mixed.positives, others)

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """ln of an outcome and the others: all score alike."""
        return math.log1p(self.per_request)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        lists, happened, others = self._lists(batch, funnel)
        z = lists(outputs[self.stage].logits[self.label] + batch.log_rates[self.of])
        against = z.masked_fill(~others, -FAR).logsumexp(1, keepdim=True)
        values = torch.where(happened, torch.nn.functional.softplus(against - z), 0)
        return values, self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        lists, happened, others = self._lists(batch, funnel)
        return lists(batch.weight) * (happened & others.any(1, keepdim=True))

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        self._lists(batch, funnel)

    def _lists(self, batch: Batch, funnel: FunnelSpec) -> tuple[PaddedLists, Tensor, Tensor]:
        """The drawn rows by request; which have the outcome, and which have not: (R, n) bool each."""
        lists = PaddedLists.of_population(batch, self.population(funnel))
        happened = lists(batch.labels[self.of]) > 0
        return lists, happened, lists.mask & ~happened
