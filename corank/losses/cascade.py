"""`cascade`: the true top must survive every stage of the funnel, so all stages learn together.

Letters: R requests · C candidates · n the longest list.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn.functional import logsigmoid

from corank.batches.batch import Batch
from corank.batches.sampling import Population
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.padded import Lists
from corank.losses.soft_sort import NeuralSort, threshold
from corank.models.stage_io import StageOutput

ALWAYS = 1 - 1e-6
"""The probability above which 1 − P is rounding and has no gradient."""


class Survival(NamedTuple):
    """log P and log(1 − P) that a candidate is kept: (R, n) each."""

    kept: Tensor
    cut: Tensor

    @classmethod
    def of(cls, kept: Tensor) -> Self:
        """From log P."""
        return cls(kept, torch.log1p(-kept.exp().clamp_max(ALWAYS)))

    def both(self, true: Tensor, lists: Lists) -> Tensor:
        """Mean binary cross-entropy to `true`, (R, n) bool: (R,)."""
        return -lists.mean(torch.where(true, self.kept, self.cut))

    def positives(self, true: Tensor) -> Tensor:
        """Mean of −log P over `true`, (R, n) bool: (R,)."""
        return -torch.where(true, self.kept, 0).sum(1) / true.sum(1).clamp_min(1)


@LOSSES.register("cascade")
class CascadeLoss(Loss):
    """q_s is `top`, or else the quota (`keep`) of stage s, y = 1 marks candidates of the levels `positive`, P̂ is
    NeuralSort at τ.

    `lcron`: P_s = Σ_{t ≤ q_s} P̂_s[t] / sg(Σ_t P̂_s[t]); L = CE(Π_s P_s, y) + Σ_s CE(P_s, y), CE the mean of −log P over
    y = 1: the first rows of P̂ share a mass of q_s, so what a positive gains the others lose. In logarithms the
    normaliser has no gradient, and the product's part is the sum of the stages'. (With the negatives' −log(1 − P)
    nothing is learnt, LOG.md.) Source: LCRON, arXiv 2503.09492.

    `dftopk`: the same with binary cross-entropies, means over the request's candidates, of
    P_s = σ((z − (z[q_s] + z[q_s + 1]) / 2) / τ), z[k] the k-th largest: linear time. Source: arXiv 2510.11472.

    `arf`: L = −Σ_s (mean over y = 1 of log(Σ_{t ≤ q_s} P̂_s[t] / q_s) + mean over t of log P̂_s[t, i_t]), i_t the t-th of
    the order by level; ties stand in the stage's own order, so that they pull nowhere. Source: arXiv 2310.10462, whose
    learnt weights of the two parts are left out.

    A stage that keeps all of a request's candidates lets all survive, and learns nothing there.
    """

    kind: Literal["cascade"]
    form: Literal["lcron", "arf", "dftopk"]
    stages: list[str] | None = Field(default=None, min_length=1)
    """All stages unless given."""
    label: str = "click"
    """The label whose logits order the candidates."""
    positive: list[str] = Field(min_length=1)
    """Levels of the candidates that should survive."""
    on: list[str] | None = Field(default=None, min_length=1)
    """Levels of the candidates that compete; all unless given."""
    per_request: PositiveInt | None = None
    """Candidates of each level and request; all of them unless given."""
    temperature: PositiveFloat = 1.0
    top: PositiveInt | None = None
    """Candidates that every stage's relaxation keeps; the stage's `keep` unless given. As many as there are positives
    is easier to learn than a longer quota, into which most of what is cut would fit."""

    @model_validator(mode="after")
    def _positives_compete(self) -> Self:
        if self.on is not None and not set(self.positive) <= set(self.on):
            raise ValueError(f"positive must be among on {self.on}; received {self.positive}")
        return self

    @property
    def name(self) -> str:
        return f"cascade.{self.form}"

    @property
    def learner(self) -> None:
        return None

    def reads(self, funnel: FunnelSpec) -> list[str]:
        return list(funnel.keep) if self.stages is None else self.stages

    def check(self, funnel: FunnelSpec, key: str) -> None:
        for stage in self.reads(funnel):
            funnel.check_label(stage, self.label, f"{key}.stages")
        for level in self.on or funnel.levels:
            funnel.logged_code(level, f"{key}.on")
        for level in self.positive:
            funnel.logged_code(level, f"{key}.positive")
        if set(self.positive) >= set(self.on or funnel.levels):
            raise ConfigError(f"{key}.positive: every candidate would be one; received {self.positive}")

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.levels.index(level): self.per_request for level in self.on or funnel.levels}

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        lists = Lists.of(batch, batch.in_population(self.population(funnel)))
        true = lists(batch.in_population({funnel.levels.index(level): None for level in self.positive}))
        value, kept = torch.zeros(len(true), device=true.device), torch.zeros(true.shape, device=true.device)
        cutting = torch.zeros_like(lists.size, dtype=torch.bool)
        for stage in self.reads(funnel):
            scores, keep = lists(outputs[stage].logits[self.label]), self.top or funnel.keep[stage]
            cuts = lists.size > keep
            cutting |= cuts
            if self.form == "arf":
                loss = self._arf(scores, lists, keep, true, lists(batch.level.float()))
            else:
                survival = self._survival(scores, lists, keep)
                loss = self._missed(survival, true, lists)
                kept = kept + survival.kept.masked_fill(~cuts.unsqueeze(1), 0)
            value = value + loss.masked_fill(~cuts, 0)
        if self.form != "arf":
            value = value + self._missed(Survival.of(kept), true, lists)
        return value, lists.mean(lists(batch.weight)) * cutting * true.any(1)

    def _missed(self, survival: Survival, true: Tensor, lists: Lists) -> Tensor:
        return survival.positives(true) if self.form == "lcron" else survival.both(true, lists)

    def _survival(self, scores: Tensor, lists: Lists, keep: int) -> Survival:
        if self.form == "lcron":
            return Survival.of(NeuralSort.of(scores, lists.mask, self.temperature).survival(keep))
        above = threshold(scores, lists.mask, keep) / self.temperature
        kept = logsigmoid(above)
        return Survival(kept, kept - above)

    def _arf(self, scores: Tensor, lists: Lists, keep: int, true: Tensor, depth: Tensor) -> Tensor:
        relaxed = NeuralSort.of(scores, lists.mask, self.temperature)
        found = torch.where(true, relaxed.top(keep) - math.log(keep), 0).sum(1) / true.sum(1).clamp_min(1)
        return -found - relaxed.likelihood(depth).sum(1) / lists.size.clamp_min(1)
