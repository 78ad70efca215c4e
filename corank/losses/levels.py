"""Loss `levels`: a candidate that came deeper in the log's funnel must lead one that did not.

Letters: R requests · C candidates · n the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, StageLoss
from corank.losses.padded import FAR, PaddedLists, falling_order

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("levels")
class LevelsLoss(StageLoss):
    """Ranking by level; z is the stage's logit over the temperature.

    `ranknet`: L = mean of softplus(z_b − z_a) over a request's pairs of a deeper than b. Source: Burges et al.,
    Learning to Rank Using Gradient Descent, ICML 2005.

    `lambda`: L = Σ (G_a − G_b) |D_a − D_b| softplus(z_b − z_a) / DCG of the best order, with G the `gains` or 2^g − 1,
    g the depth among the levels `on`, D = 1 / log2(1 + rank by z), ranks from 1. Sources: FS-LTR, arXiv 2405.04844;
    LambdaLoss, CIKM 2018.

    `softmax`: L = mean of −log softmax(z) over the request's candidates of the levels `positive`. Source: ASMOL,
    arXiv 2304.08434, whose positives are summed.

    Pairs grow with the square of a level's candidates: draw `per_request` if lists are long.
    """

    kind: Literal["levels"] = "levels"
    form: Literal["ranknet", "lambda", "softmax"]
    """All pairs alike, pairs by their change of NDCG, or a softmax."""
    on: list[str] | None = Field(default=None, min_length=1)
    """Levels of the candidates; all unless given."""
    positive: list[str] | None = Field(default=None, min_length=1)
    """Levels of the positives in `softmax`; the deepest unless given."""
    gains: list[NonNegativeFloat] | None = None
    """What each of the levels `on` is worth in `lambda`, the shallowest first; 2^g − 1 unless given, g from 0. If only
    the deepest should survive, let the others be worth nothing: [0, 0, 0, 1]."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all unless given."""
    temperature: PositiveFloat = 1.0
    """Divides the logits."""

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if self.positive is not None and self.form != "softmax":
            raise ValueError(f"form: {self.form} compares all levels and has no positive ones; drop positive")
        if self.gains is None:
            return self
        if self.form != "lambda":
            raise ValueError(f"gains have no effect with form: {self.form}; drop them, or write form: lambda")
        if sorted(self.gains) != self.gains or self.gains[0] == self.gains[-1]:
            raise ValueError(
                f"gains: expected numbers that never fall, from the shallowest level to the deepest, and are not "
                f"all equal; received {self.gains}"
            )
        return self

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.form}"

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        on = {funnel.logged_code(level, f"{key}.on") for level in self.on or funnel.levels}
        if len(on) < 2:
            raise ConfigError(f"{key}.on: two levels are needed, one over another; received {self.on}")
        if self.gains is not None and len(self.gains) != len(on):
            raise ConfigError(
                f"{key}.gains: expected {len(on)} numbers, one a level of {', '.join(self.on or funnel.levels)}; "
                f"received {len(self.gains)}"
            )
        positive = {funnel.logged_code(level, f"{key}.positive") for level in self.positive_levels(funnel)}
        if not positive < on:
            raise ConfigError(
                f"{key}.positive: must be some, but not all, of the levels "
                f"{', '.join(self.on or funnel.levels)}; received {', '.join(self.positive_levels(funnel))}"
            )

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.levels.index(level): self.per_request for level in self.on or funnel.levels}

    def positive_levels(self, funnel: FunnelSpec) -> Sequence[str]:
        """The levels of the positives in `softmax`."""
        return self.positive or [max(self.on or funnel.levels, key=funnel.levels.index)]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        population = self.population(funnel)
        rows = {code: counts.rows({code: most}) for code, most in population.items()}
        total, filled = sum(rows.values()), [code for code in sorted(rows) if rows[code]]
        if self.form == "softmax":
            positives = sum(rows[funnel.levels.index(level)] for level in self.positive_levels(funnel))
            return Targets(total, positives, total - positives)
        if not filled:
            return Targets(0, 0, 0)
        return Targets(total, total - rows[filled[0]], total - rows[filled[-1]])

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        z = outputs[self.stage].logits[self.label] / self.temperature
        lists, weights = self._lists(batch, funnel), self.weights(batch, funnel)
        if self.form == "softmax":
            return softmax(lists(z, -torch.inf), self._positive(batch, funnel), weights > 0), weights
        by_level = self._by_level(batch, funnel)
        if self.form == "ranknet":
            return pairs(z, by_level) / pair_mass(by_level).clamp_min(1), weights
        gains = self._gains(by_level)
        value = pairs(z, by_level, gains_of(batch, gains), rank_discounts(z, lists))
        best = best_dcg(by_level, gains, lists.mask.shape[1])
        return value / best.where(weights > 0, 1), weights

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        lists = self._lists(batch, funnel)
        weight = lists.mean(lists(batch.weight))
        if self.form == "softmax":
            return weight * differ(self._positive(batch, funnel), lists.mask)
        by_level = self._by_level(batch, funnel)
        gains = None if self.form == "ranknet" else gains_of(batch, self._gains(by_level))
        return weight * (pair_mass(by_level, gains) > 0)

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        self._lists(batch, funnel)
        if self.form != "softmax":
            gains_of(batch, self._gains(self._by_level(batch, funnel)))

    def _lists(self, batch: Batch, funnel: FunnelSpec) -> PaddedLists:
        return PaddedLists.of_population(batch, self.population(funnel))

    def _positive(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        """1 for the positives of `softmax`, 0 for others: (R, n)."""
        positive = {funnel.levels.index(level): None for level in self.positive_levels(funnel)}
        return self._lists(batch, funnel)(batch.in_population(positive).float())

    def _gains(self, by_level: Sequence[PaddedLists]) -> Sequence[float]:
        return self.gains or [2.0**depth - 1 for depth in range(len(by_level))]

    def _by_level(self, batch: Batch, funnel: FunnelSpec) -> list[PaddedLists]:
        """The candidates of each level, the shallowest first."""
        population = sorted(self.population(funnel).items())
        return [PaddedLists.of_population(batch, {code: count}) for code, count in population]


def gains_of(batch: Batch, gains: Sequence[float]) -> Tensor:
    """Gains as a tensor where the batch is."""
    return batch.once(("gains", *gains), lambda: torch.tensor(gains, device=batch.level.device))


def differ(gain: Tensor, mask: Tensor) -> Tensor:
    """Whether two gains of a list differ: (R, n), and whether there is a candidate, (R, n) bool → (R,) bool."""
    if not gain.shape[1]:
        return gain.sum(1) > 0
    return gain.amax(1) > gain.masked_fill(~mask, torch.inf).amin(1)


def softmax(z: Tensor, gain: Tensor, eligible: Tensor) -> Tensor:
    """Compute the mean of −log softmax(z) of each list, weighted by gains: (R,).

    Args:
        z: logits, −∞ beyond the list: (R, n).
        gain: 1 for positives, or what each is worth; 0 for others and beyond the list: (R, n).
        eligible: which lists count; two gains of each must `differ`: (R,) bool.
    """
    # an empty list has no softmax; its zeros keep the others' gradients numbers
    log = torch.where(eligible.unsqueeze(1), z, 0).log_softmax(1)
    return -(torch.where(gain > 0, log, 0) * gain).sum(1) / gain.sum(1).where(eligible, 1)


def pairs(
    z: Tensor,
    by_level: Sequence[PaddedLists],
    gains: Tensor | None = None,
    discount: Tensor | None = None,
) -> Tensor:
    """Sum softplus(z_b − z_a) over pairs of a deeper than b: (R,).

    Args:
        z: (C,).
        by_level: the candidates of each level, or grade, the lowest first.
        gains: G by level, never falling, by which pairs are weighted, as G_a − G_b; unweighted unless given.
        discount: D by which pairs are weighted, too, as |D_a − D_b|: (C,).
    """
    n = [lists.mask.shape[1] for lists in by_level]
    gain_of = None if gains is None else gains.to(z.dtype)
    gain = None if gain_of is None else torch.cat([g.expand(k) for g, k in zip(gain_of, n, strict=True)])
    # padding has no loss: far above all as the deeper of a pair, far below all as the shallower
    shallower = torch.cat([lists(z, -FAR) for lists in by_level], dim=1)
    discounts_of = None if discount is None else torch.cat([lists(discount) for lists in by_level], dim=1)
    value, first = torch.zeros_like(by_level[0].size, dtype=z.dtype), n[0]
    for depth, lists in enumerate(by_level[1:], start=1):
        last = first + n[depth]
        loss = torch.nn.functional.softplus(shallower[:, None, :first] - lists(z, FAR).unsqueeze(2))
        if discounts_of is not None:
            loss = loss * (discounts_of[:, first:last, None] - discounts_of[:, None, :first]).abs_()
        if gain_of is not None and gain is not None:
            loss = loss * (gain_of[depth] - gain[:first])
        value, first = value + loss.sum((1, 2)), last
    return value


def pair_mass(by_level: Sequence[PaddedLists], gains: Tensor | None = None) -> Tensor:
    """Sum the weights of `pairs` without discounts: (R,)."""
    mass, under = torch.zeros_like(by_level[0].size), by_level[0].size
    worth = under * (0 if gains is None else gains[0])  # Σ G over the candidates under a level
    for depth, lists in enumerate(by_level[1:], start=1):
        if gains is None:
            mass = mass + lists.size * under
        else:
            mass = mass + lists.size * (gains[depth] * under - worth)
            worth = worth + lists.size * gains[depth]
        under = under + lists.size
    return mass


def discounts(n: int, device: torch.device) -> Tensor:
    """Compute 1 / log2(1 + rank) for the ranks 1 … n: (n,)."""
    return 1 / torch.log2(torch.arange(2, n + 2, device=device))


def rank_discounts(z: Tensor, lists: PaddedLists) -> Tensor:
    """Compute the discount of each candidate's rank in its request by z, 0 outside the lists: (C,)."""
    order = falling_order(lists(z.detach(), -torch.inf))
    by_rank = discounts(order.shape[1], z.device).expand(order.shape)
    list_discounts = torch.zeros_like(by_rank).scatter(1, order, by_rank)
    # padding is written to an extra entry past the end
    at = torch.where(lists.mask, lists.index, len(z))
    return z.new_zeros(len(z) + 1).index_copy_(0, at.view(-1), list_discounts.view(-1))[:-1]


def best_dcg(by_level: Sequence[PaddedLists], gains: Sequence[float], n: int) -> Tensor:
    """Compute the DCG of each list in the order of its levels, the deepest first: (R,).

    Args:
        by_level: the candidates of each level, shallow to deep.
        gains: G by level, never falling.
        n: the longest list over all levels.
    """
    upto = torch.nn.functional.pad(discounts(n, by_level[0].size.device).cumsum(0), (1, 0))
    total, first = torch.zeros_like(by_level[0].size, dtype=upto.dtype), torch.zeros_like(by_level[0].size)
    for gain, lists in reversed(list(zip(gains, by_level, strict=True))):
        last = first + lists.size
        total += gain * (upto[last] - upto[first])
        first = last
    return total
