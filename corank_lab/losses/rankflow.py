"""Loss `rankflow`: a stage learns on what earlier stages pass on to it, from the log and from the stage after it.

Letters: R requests · n the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.cascade import FunnelLoss
from corank.losses.padded import PaddedLists, falling_order

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("rankflow")
class RankFlowLoss(FunnelLoss):
    """Every stage learns the truth and the opinion of its successor on its own candidates.

    D_1 are the candidates of the levels `on`; D_{s + 1} are the q_s of D_s that stage s puts first now, q_s its `keep`
    or `top`. y = 1 marks the levels `positive`, z_s are the logits of stage s, t those of stage s + 1, detached.

    L = Σ_s mean over D_s of BCE(z_s, y) + Σ_{s < last} α softplus(rest_s − best_s) + (1 − α) mean over D_s of
    (z_s − t)², where best_s is the mean of z_s over the q_{s + 1} of D_s with the highest t, and rest_s over the others
    of D_s; without others, that term is 0.

    Source: Qin et al., RankFlow: Joint Optimization of Multi-Stage Cascade Ranking Systems as Flows, SIGIR 2022
    (doi 10.1145/3477495.3532050): self-learning is the first sum, tutor learning the second. The paper takes them in
    turns after a warm-up; here they are one sum, and a tutor learns while it teaches.
    """

    kind: Literal["rankflow"] = "rankflow"
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    """α: the tutor's choice of the best against its scores."""

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        lists = PaddedLists.of_population(batch, self.population(funnel))
        positive = batch.in_population({funnel.levels.index(level): None for level in self.positive})
        true = lists(positive.float())
        stages = [stage for stage in funnel.keep if stage in self.reads(funnel)]
        logits = [lists(outputs[stage].logits[self.label]) for stage in stages]
        quotas = [self.top or funnel.keep[stage] for stage in stages]
        candidates, value = lists.mask, torch.zeros(len(true), device=true.device)
        for n, z in enumerate(logits):
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(z, true, reduction="none")
            value = value + _mean(entropy, candidates)
            if n + 1 < len(stages):
                teacher = logits[n + 1].detach()
                best = _first(teacher, candidates, quotas[n + 1])
                value = value + self.alpha * _choice(z, best, candidates & ~best)
                value = value + (1 - self.alpha) * _mean((z - teacher) ** 2, candidates)
                candidates = _first(z.detach(), candidates, quotas[n])
        return value, self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        lists = PaddedLists.of_population(batch, self.population(funnel))
        return lists.mean(lists(batch.weight)) * (lists.size > 0)


def _first(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Mark the `count` of each list that have the highest scores, among those marked: (R, n) bool."""
    order = falling_order(scores.masked_fill(~among, -torch.inf))
    marked = torch.zeros_like(among).scatter(1, order[:, :count], True)
    return marked & among


def _choice(z: Tensor, best: Tensor, rest: Tensor) -> Tensor:
    """−log σ of the distance between the mean logits of two groups, 0 where one is empty: (R,)."""
    distance = torch.nn.functional.softplus(_mean(z, rest) - _mean(z, best))
    return distance.masked_fill(~(best.any(1) & rest.any(1)), 0)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of each list where it is marked, 0 if nowhere: (R, n) → (R,)."""
    return torch.where(where, values, 0).sum(1) / where.sum(1).clamp_min(1)
