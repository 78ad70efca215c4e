"""Loss `cascade`: the candidates that matter must survive every stage of the funnel, so all stages learn together.

Letters: R requests · C candidates · n the longest list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, Loss
from corank.losses.padded import FAR, PaddedLists
from corank.losses.soft_sort import NeuralSort, threshold

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")

MAX_CUT = 1 - 1e-6
"""Above this probability 1 − P is rounding error and gets no gradient."""


class Survival(NamedTuple):
    """Log-probabilities that a candidate is kept, and that it is cut, by a stage or by the stages so far."""

    kept: Tensor
    """(R, n)."""
    cut: Tensor
    """(R, n)."""

    @classmethod
    def first(cls, stage: Self, cuts: Tensor) -> Self:
        """The same of the first stage alone, in the lists that it cuts, (R, 1) bool; from others nothing is cut."""
        return cls(stage.kept.masked_fill(~cuts, 0), stage.cut.masked_fill(~cuts, -FAR))

    def then(self, stage: Self, cuts: Tensor) -> Self:
        """Add a stage, in the lists that it cuts, (R, 1) bool: Π up_s, and 1 − Π (1 − down_s)."""
        reached = torch.log1p(-self.cut.exp().clamp_max(MAX_CUT))
        kept = self.kept + stage.kept.masked_fill(~cuts, 0)
        return type(self)(kept, torch.where(cuts, torch.logaddexp(self.cut, stage.cut + reached), self.cut))

    def cross_entropy(self, true: Tensor, lists: PaddedLists) -> Tensor:
        """Mean binary cross-entropy over each list, with `true` (R, n) bool as the target: (R,)."""
        return -lists.mean(torch.where(true, self.kept, self.cut))


class StageLists(NamedTuple):
    """The lists of a batch as one stage orders and cuts them."""

    lists: PaddedLists
    true: Tensor
    """Which candidates should survive: (R, n) bool."""
    level: Tensor
    """The level that each candidate reached: (C,)."""
    scores: Tensor
    """The stage's logits: (R, n)."""
    keep: int
    """Candidates of a list that the stage keeps."""
    output: StageOutput
    """All that the stage gives."""

    def sort(self, temperature: float) -> NeuralSort:
        """Sort the lists by the stage's logits, relaxed, to be cut after `keep`."""
        return NeuralSort.of(self.scores, self.lists.mask, temperature, self.keep)

    def order_loss(self, relaxed: NeuralSort) -> Tensor:
        """−log of the relaxed probability of the order by level, averaged over the ranks of each list: (R,)."""
        return -relaxed.likelihood(self.lists(self.level.float())).sum(1) / self.lists.size.clamp_min(1)


class FunnelLoss(Loss):
    """A loss from which all stages learn at once, so that the candidates that matter come through all of them."""

    stages: list[str] | None = Field(default=None, min_length=1)
    """The stages that learn; all unless given."""
    label: str = "click"
    """The label whose logits order the candidates."""
    positive: list[str] = Field(min_length=1)
    """Levels of the candidates that should survive."""
    on: list[str] | None = Field(default=None, min_length=1)
    """Levels of the candidates that compete; all unless given."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all unless given."""
    top: PositiveInt | None = None
    """Candidates that each stage keeps in the loss; the stage's `keep` unless given. As many as there are positives is
    easier to learn than a longer quota, into which most candidates would fit."""

    @model_validator(mode="after")
    def _check_positive(self) -> Self:
        if self.on is not None and not set(self.positive) <= set(self.on):
            raise ValueError(f"positive must be among on {self.on}; received {self.positive}")
        return self

    @property
    def name(self) -> str:
        return self.kind

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

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        population = self.population(funnel)
        rows = counts.rows(population)
        codes = [funnel.levels.index(level) for level in self.positive]
        positives = counts.rows({code: population[code] for code in codes})
        return Targets(rows, positives, rows - positives)

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        PaddedLists.of_population(batch, self.population(funnel))

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        """Those of `sum_stages`: lists that some stage cuts, and that have a candidate that should survive."""
        lists = PaddedLists.of_population(batch, self.population(funnel))
        cutting = lists.size > min(self.top or funnel.keep[stage] for stage in self.reads(funnel))
        return lists.mean(lists(batch.weight)) * cutting * self._true(batch, funnel, lists).any(1)

    def _true(self, batch: Batch, funnel: FunnelSpec, lists: PaddedLists) -> Tensor:
        """Which candidates should survive: (R, n) bool."""
        return lists(batch.in_population({funnel.levels.index(level): None for level in self.positive}))

    def sum_stages(
        self,
        outputs: Mapping[str, StageOutput],
        batch: Batch,
        funnel: FunnelSpec,
        of_stage: Callable[[StageLists], tuple[Tensor, Survival | None]],
    ) -> tuple[Tensor, Tensor]:
        """Sum what each stage loses by its cut, and the cross-entropy of surviving all cuts.

        A stage that keeps all candidates of a request cuts none there, and learns nothing from it.

        Args:
            outputs, batch, funnel: as of `values`.
            of_stage: computes a stage's own loss of each list, (R,), and its survival, None if the stages' losses have
                nothing to do with each other.

        Returns:
            Losses of requests, and their weights: (R,), (R,).
        """
        lists = PaddedLists.of_population(batch, self.population(funnel))
        true = self._true(batch, funnel, lists)
        value = torch.zeros(len(true), device=true.device)
        cutting = torch.zeros_like(lists.size, dtype=torch.bool)
        funnelled: Survival | None = None
        for stage in self.reads(funnel):
            keep, scores = self.top or funnel.keep[stage], lists(outputs[stage].logits[self.label])
            cuts = lists.size > keep
            cutting |= cuts
            own, survival = of_stage(StageLists(lists, true, batch.level, scores, keep, outputs[stage]))
            value = value + own.masked_fill(~cuts, 0)
            if survival is not None:
                cut = cuts.unsqueeze(1)
                funnelled = funnelled.then(survival, cut) if funnelled else Survival.first(survival, cut)
        if funnelled:
            value = value + funnelled.cross_entropy(true, lists).masked_fill(~cutting, 0)
        return value, self.weights(batch, funnel)


@LOSSES.register("cascade")
class CascadeLoss(FunnelLoss):
    """Survival of the positives through the cut of every stage, with a sorting relaxed so that gradients pass.

    q_s is `top`, or else the quota (`keep`) of stage s; y = 1 marks candidates of the levels `positive`; P̂_s is
    the NeuralSort matrix of stage s at temperature τ, row t the t-th rank; sg stops the gradient.

    `lcron`: raw = sg(Σ_t P̂_s[t]), up_s = Σ_{t ≤ q_s} P̂_s[t] / raw, down_s = Σ_{t > q_s} P̂_s[t] / raw; L = mean of
    −y log Π_s up_s − (1 − y) log(1 − Π_s (1 − down_s)) + ½ Σ_s mean of −y log up_s − (1 − y) log down_s, over the
    request's candidates. up + down is 1, but the gradient of down is that of the lower rows: through 1 − up what
    should be cut would not learn (docs/decisions.md). Source: LCRON, arXiv 2503.09492.

    `dftopk`: the same with up_s = σ((z − (z[q_s] + z[q_s + 1]) / 2) / τ), where z[k] is the k-th largest logit,
    down_s = 1 − up_s, and a stage's own term in full. It takes linear time. Source: DFTopK, arXiv 2510.11472.

    `arf_v2`: L = Σ_s (L_Relax + L_Global). L_Relax is the stage's own term of `lcron` in full; L_Global = −mean over t
    of log P̂_s[t, i_t], where i_t is the t-th candidate by level, ties in the stage's own order, so that they have no
    gradient. Source: a baseline of LCRON, arXiv 2503.09492, after ARF, arXiv 2310.10462.

    A stage that keeps all candidates of a request cuts none there, and learns nothing from it.
    """

    kind: Literal["cascade"] = "cascade"
    form: Literal["lcron", "arf_v2", "dftopk"]
    """Which relaxation of the cut: by a sort, or by the distance from the last candidate that is kept."""
    temperature: PositiveFloat = 1.0
    """τ: the relaxation is sharper at lower ones."""

    @property
    def name(self) -> str:
        return f"cascade.{self.form}"

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        return self.sum_stages(outputs, batch, funnel, self._of_stage)

    def _of_stage(self, cut: StageLists) -> tuple[Tensor, Survival | None]:
        if self.form == "dftopk":
            above = threshold(cut.scores, cut.lists.mask, cut.keep) / self.temperature
            kept = torch.nn.functional.logsigmoid(above)
            survival = Survival(kept, kept - above)
            return survival.cross_entropy(cut.true, cut.lists), survival
        relaxed = cut.sort(self.temperature)
        order = cut.order_loss(relaxed) if self.form == "arf_v2" else None
        survival = Survival(*relaxed.survival())
        own = survival.cross_entropy(cut.true, cut.lists)
        return (0.5 * own, survival) if order is None else (own + order, None)
