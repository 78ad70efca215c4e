"""Loss `cascade`: the candidates that matter must survive every stage of the funnel, so all stages learn together."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from corank.batches.label_counts import SplitCounts, Targets
from corank.batches.sampling import Population
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES, FunnelSpec, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("cascade")
class CascadeLoss(Loss):
    """Survival of the positives through the cut of every stage, with a sorting relaxed so that gradients pass.

    q_s is `top`, or else the quota (`keep`) of stage s; y = 1 marks candidates of the levels `positive`; P̂_s is
    the NeuralSort matrix of stage s at temperature τ, row t the t-th rank; sg stops the gradient.

    `lcron`: raw = sg(Σ_t P̂_s[t]), up_s = Σ_{t ≤ q_s} P̂_s[t] / raw, down_s = Σ_{t > q_s} P̂_s[t] / raw; L = mean of
    −y log Π_s up_s − (1 − y) log(1 − Π_s (1 − down_s)) + ½ Σ_s mean of −y log up_s − (1 − y) log down_s, over the
    request's candidates. up + down is 1, but the gradient of down is that of the lower rows: through 1 − up what
    should be cut would not learn (docs/decisions/lcron-cross-entropy.md). Source: LCRON, arXiv 2503.09492.

    `dftopk`: the same with up_s = σ((z − (z[q_s] + z[q_s + 1]) / 2) / τ), where z[k] is the k-th largest logit,
    down_s = 1 − up_s, and a stage's own term in full. It takes linear time. Source: DFTopK, arXiv 2510.11472.

    `arf`: L = −Σ_s (mean over y = 1 of log(Σ_{t ≤ q_s} P̂_s[t] / q_s) + mean over t of log P̂_s[t, i_t]), where
    i_t is the t-th candidate by level, ties in the stage's own order, so that they have no gradient. Source: arXiv
    2310.10462, without its learnt weights of the two parts.

    A stage that keeps all candidates of a request cuts none there, and learns nothing from it.
    """

    kind: Literal["cascade"] = "cascade"
    form: Literal["lcron", "arf", "dftopk"]
    """Which relaxation of the cut: by a sort, or by the distance from the last candidate that is kept."""
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
    temperature: PositiveFloat = 1.0
    """τ: the relaxation is sharper at lower ones."""
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

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        population = self.population(funnel)
        rows = counts.rows(population)
        codes = [funnel.levels.index(level) for level in self.positive]
        positives = counts.rows({code: population[code] for code in codes})
        return Targets(rows, positives, rows - positives)

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.cascade import cascade_values

        return cascade_values(self, outputs, batch, funnel)
