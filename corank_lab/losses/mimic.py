"""Loss `mimic`: the generators of two towers imagine the other side's vector of a positive pair.

Letters: P clicked candidates · d width of the vectors, less biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat

from corank.batches.sampling import SplitCounts, Targets
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, StageLoss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("mimic")
class MimicLoss(StageLoss):
    """L = mean over clicked (r, i) of 2 − cos(g_r, v_i) − cos(h_i, q_r), q and v without gradient.

    g_r is what the query imagines of the items it clicks, h_i what the item imagines of the queries that click it: they
    approach the mean direction of what a side meets. Only the generators, and the tables below them, learn from it.

    Source: the generation loss of HIT for targets, Yang et al. 2025 (arXiv 2505.19849), where its weight is 0.1.
    """

    kind: Literal["mimic"] = "mimic"
    stage: str
    """The stage to train; its network must give `mimics`, as towers with `generated` do."""
    weight: NonNegativeFloat = 0.01
    """Small: the tables that all share learn from it, too."""
    label: str = "click"
    """The label whose positives pair a query with an item."""
    extras: ClassVar[Sequence[str]] = ("mimics",)

    def needed_labels(self) -> Sequence[str]:
        return [self.label]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        clicked = counts.labels[self.label].positives
        return Targets(clicked, clicked, clicked)  # each is a target of its own

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """2: directions that know nothing of each other."""
        return 2.0

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        clicked = self._clicked(batch)
        mimics = outputs[self.stage].extras["mimics"]
        request, item = batch.request_of[clicked].long(), batch.item_of[clicked].long()
        # not by an index, whose gradient adds up in no fixed order
        embedding, normalize = torch.nn.functional.embedding, torch.nn.functional.normalize
        of_item, of_query = embedding(request, mimics.of_item()), embedding(item, mimics.of_query())
        query, item_vector = normalize(mimics.query[request], dim=1), normalize(mimics.item[item], dim=1)
        return 2 - (of_item * item_vector).sum(1) - (of_query * query).sum(1), self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        return batch.weight[self._clicked(batch)]

    def _clicked(self, batch: Batch) -> Tensor:
        """The clicked candidates: (P,)."""
        clicked = batch.label_weight(self.label) * (batch.labels[self.label] > 0)
        return batch.once(("clicked", self.label), lambda: torch.nonzero(clicked).squeeze(1))
