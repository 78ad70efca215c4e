"""Loss `outcome`: what users did later by any path, as a label of all levels that production's cuts did not choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from corank.batches.sampling import ITEM, OUTCOMES, Outcomes, Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.core.settings import require_known
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
    """Softmax of outcomes: L = mean over candidates i with an outcome of −log softmax of z_i among i and drawn others.

    Others are `per_request` candidates of the same request without an outcome, of any level.
    """

    kind: Literal["outcome"] = "outcome"
    of: str
    """The label of the outcome, which is `known: everywhere`; `label` says which logits learn."""
    per_request: PositiveInt = 10
    """Others that are drawn of each request with an outcome."""
    match: str | None = ITEM
    form: Literal["softmax", "bce", "corrected", "ips"] = "softmax"

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.of}"

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        require_known(self.of, funnel.labels, f"{key}.of", "label", "data.labels")
        if self.of not in funnel.everywhere:
            raise ConfigError(
                f"{key}.of: '{self.of}' is known where exposed alone; write known: everywhere at data.labels.{self.of}"
                " if its column tells it of candidates of all levels, or take kind: click"
            )
        funnel.check_match(self.match, f"{key}.match")

    def population(self, funnel: FunnelSpec) -> Population:
        return {self._code(funnel): self.per_request}

    def _code(self, funnel: FunnelSpec) -> int:
        return OUTCOMES - funnel.everywhere.index(self.of)

    def outcomes(self, funnel: FunnelSpec) -> Mapping[int, Outcomes]:
        return {self._code(funnel): Outcomes(self.of, self.match)}

    def needed_labels(self) -> Sequence[str]:
        return [self.of]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        mixed = counts.mixed[self.of]
        others = min(mixed.negatives, mixed.requests * self.per_request)
        return Targets(mixed.positives + others, mixed.positives, others)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        z = outputs[self.stage].logits[self.label]
        label = batch.labels[self.of]
        if self.form == "bce":
            w = batch.weight * batch.in_population(self.population(funnel))
            return torch.nn.functional.binary_cross_entropy_with_logits(z, label.clamp_min(0), reduction="none"), w
        lists = self._lists(batch, funnel)
        if self.form == "corrected":
            z = z + batch.log_rate
        z, happened = lists(z), lists(label) > 0
        others = z.masked_fill(happened | ~lists.mask, -FAR).logsumexp(1, keepdim=True)
        return torch.nn.functional.softplus(others - z), self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        if self.form == "bce":
            return batch.weight * batch.in_population(self.population(funnel))
        lists = self._lists(batch, funnel)
        happened = lists(batch.labels[self.of]) > 0
        w = batch.weight
        if self.form == "ips":
            w = w * torch.exp(-batch.log_rate).clamp_max(5)
        return lists(w) * (happened & (lists.mask & ~happened).any(1, keepdim=True))

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        self._lists(batch, funnel)

    def _lists(self, batch: Batch, funnel: FunnelSpec) -> PaddedLists:
        return PaddedLists.of_population(batch, self.population(funnel))
