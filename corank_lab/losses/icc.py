"""Loss `icc`: the order in which the whole cascade returns the candidates is learnt.

Letters: R requests · C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.cascade import FunnelLoss
from corank.losses.levels import best_dcg, gains_of, pair_mass, pairs, rank_discounts
from corank.losses.padded import PaddedLists, falling_order

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")

GAINS = (0.0, 1.0)
"""What candidates that need not survive, and those that should, are worth."""


@LOSSES.register("icc")
class IccLoss(FunnelLoss):
    """LambdaLoss of the cascade's result F = Σ_s (1 − I_s) Π_{r < s} I_r z_s, z the logits. I_s = σ((z_s −
    sg(z_s[q_s])) / τ) is how far stage s keeps a candidate; the last stage passes none on, I = 0. L = Σ over y_a = 1,
    y_b = 0 of |D_a − D_b| softplus(F_b − F_a) / Σ of D_t over the first Σ y ranks, D = 1 / log2(1 + rank by F).
    I_s passes no gradient: with one, a pre-ranker may learn to cut the best, whose own scores then lead F. Source:
    Gallagher et al., Joint Optimization of Cascade Ranking Models, WSDM 2019, with independent scores, the logistic
    indicator and approximate gradients, which weigh a stage's own.

    q_s is `top`, or else the quota (`keep`) of stage s; a stage that keeps all candidates of a request passes all on.
    """

    kind: Literal["icc"] = "icc"
    temperature: PositiveFloat = 1.0
    """τ: the indicator is sharper at lower ones."""

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        lists = PaddedLists.of_population(batch, self.population(funnel))
        stages = [stage for stage in funnel.keep if stage in self.reads(funnel)]
        reached, result = torch.ones_like(batch.weight), torch.zeros_like(batch.weight)
        for stage in stages:
            z, keep = outputs[stage].logits[self.label], self.top or funnel.keep[stage]
            cuts = lists.size > keep
            last = stage == stages[-1]
            kept = torch.zeros_like(z) if last else self._kept(z.detach(), lists, keep, cuts, batch)
            result, reached = result + reached * (1 - kept) * z, reached * kept
        by_truth, weights = self._by_truth(batch, funnel), self.weights(batch, funnel)
        value = pairs(result, by_truth, gains_of(batch, GAINS), rank_discounts(result, lists))
        best = best_dcg(by_truth, GAINS, lists.mask.shape[1])
        return value / best.where(weights > 0, 1), weights

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        return super().weights(batch, funnel) * (pair_mass(self._by_truth(batch, funnel)) > 0)

    def _by_truth(self, batch: Batch, funnel: FunnelSpec) -> Sequence[PaddedLists]:
        """The candidates that need not survive, and those that should."""
        population = self.population(funnel)
        chosen = batch.in_population(population)
        true = batch.in_population({funnel.levels.index(level): None for level in self.positive})
        parts = (chosen & ~true, chosen & true)
        return batch.once(
            ("by truth", *self.positive, *population.items()),
            lambda: tuple(PaddedLists.of(batch, part) for part in parts),
        )

    def _kept(self, z: Tensor, lists: PaddedLists, keep: int, cuts: Tensor, batch: Batch) -> Tensor:
        """How far a stage keeps each candidate, by its distance from the last that it keeps: (C,)."""
        if not cuts.any():
            return torch.ones_like(z)
        laid = lists(z, -torch.inf)
        last = laid.gather(1, falling_order(laid)[:, keep - 1 : keep]).squeeze(1)
        request = batch.request_of.long()
        kept = ((z - last.where(cuts, 0)[request]) / self.temperature).sigmoid()
        return torch.where(cuts[request], kept, 1)
