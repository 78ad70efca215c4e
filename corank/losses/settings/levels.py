"""Loss `levels`: a candidate that came deeper in the log's funnel must lead one that did not."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES, FunnelSpec, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("levels")
class LevelsLoss(Loss):
    """Ranking or classification by level; z is the stage's logit over the temperature.

    `ranknet`: L = mean of softplus(z_b − z_a) over a request's pairs of a deeper than b. Source: Burges et al.,
    Learning to Rank Using Gradient Descent, ICML 2005.

    `lambda`: L = Σ (G_a − G_b) |D_a − D_b| softplus(z_b − z_a) / DCG of the best order, with G the `gains` or 2^g − 1,
    g the depth among the levels `on`, D = 1 / log2(1 + rank by z), ranks from 1. Sources: FS-LTR, arXiv 2405.04844;
    LambdaLoss, CIKM 2018.

    `softmax`: L = mean of −log softmax(z) over the request's candidates of the levels `positive`. Source: ASMOL,
    arXiv 2304.08434, whose positives are summed.

    `bce`: L = mean of BCE(z, y) over candidates, y = 1 in the levels `positive`.

    Pairs grow with the square of a level's candidates: draw `per_request` if lists are long.
    """

    kind: Literal["levels"] = "levels"
    stage: str
    """The stage to train."""
    label: str = "click"
    """Which of its logits."""
    form: Literal["ranknet", "lambda", "softmax", "bce"]
    """All pairs alike, pairs by their change of NDCG, a softmax, or ones and zeros."""
    on: list[str] | None = Field(default=None, min_length=1)
    """Levels of the candidates; all unless given."""
    positive: list[str] | None = Field(default=None, min_length=1)
    """Levels of the positives in `softmax` and `bce`; the deepest unless given."""
    gains: list[NonNegativeFloat] | None = None
    """What each of the levels `on` is worth in `lambda`, the shallowest first; 2^g − 1 unless given, g from 0. If only
    the deepest should survive, let the others be worth nothing: [0, 0, 0, 1]."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all unless given."""
    temperature: PositiveFloat = 1.0
    """Divides the logits."""

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if self.positive is not None and self.form in ("ranknet", "lambda"):
            raise ValueError(f"form: {self.form} compares all levels and has no positive ones; drop positive")
        if self.gains is None:
            return self
        if self.form != "lambda":
            raise ValueError(
                f"gains have no effect with form: {self.form}; drop gains, or write form: lambda"
            )
        if sorted(self.gains) != self.gains or self.gains[0] == self.gains[-1]:
            raise ValueError(
                f"gains: expected numbers that never fall, from the shallowest level to the deepest, and are not "
                f"all equal; received {self.gains}"
            )
        return self

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.form}"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, self.label, f"{key}.stage")
        on = {funnel.logged_code(level, f"{key}.on") for level in self.on or funnel.levels}
        if len(on) < 2:
            raise ConfigError(
                f"{key}.on: two levels are needed, or none stands over another; received {self.on}"
            )
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

    def hard_negatives(self, funnel: FunnelSpec) -> set[int]:
        positive = {funnel.levels.index(level) for level in self.positive_levels(funnel)}
        return set(self.population(funnel)) - positive if self.form == "bce" else set()

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.levels.index(level): self.per_request for level in self.on or funnel.levels}

    def positive_levels(self, funnel: FunnelSpec) -> Sequence[str]:
        """The levels of the positives in `softmax` and `bce`."""
        return self.positive or [max(self.on or funnel.levels, key=funnel.levels.index)]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        population = self.population(funnel)
        rows = {code: counts.rows({code: most}) for code, most in population.items()}
        total, filled = sum(rows.values()), [code for code in sorted(rows) if rows[code]]
        if self.form in ("softmax", "bce"):
            positives = sum(rows[funnel.levels.index(level)] for level in self.positive_levels(funnel))
            return Targets(total, positives, total - positives)
        if not filled:
            return Targets(0, 0, 0)
        return Targets(total, total - rows[filled[0]], total - rows[filled[-1]])

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.levels import levels_values

        return levels_values(self, outputs, batch, funnel)
