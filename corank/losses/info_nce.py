"""Loss `info_nce`: a candidate of each level of the log against those of all lower levels, by a margin.

Letters: R requests · C candidates · n the longest list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from corank.batches.sampling import SOURCES, Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, StageLoss
from corank.losses.padded import FAR, PaddedLists

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("info_nce")
class InfoNceLoss(StageLoss):
    """InfoNCE with a margin, over a request's candidates of all levels.

    A candidate's grade g is the index of its level among the levels `on`, shallow to deep; one more if it is exposed
    and its label is 1. Draws beyond the log are below all levels.

    L_a = −log( exp(z_a) / ( exp(z_a) + Σ_b exp(z_b + m (g_a − g_b)) ) ) of a candidate a over the candidates b of lower
    grades, with z the stage's logit over the temperature and m the `margin` over the temperature. L is the mean over
    the grades above the lowest, of the mean of L_a over a grade's candidates, so that a long level weighs as much as a
    short one. Exposed candidates whose label is unknown are in no set of one whose label is 1.

    The cost is linear in a request's candidates. Sources: InfoNCE of van den Oord et al., arXiv 1807.03748; the idea of
    a margin and of samples of all levels is of HCCP, arXiv 2502.10284. That every grade is contrasted with all below
    it, and the margin grows with the distance of their levels, is corank's.
    """

    max_initial_ratio: ClassVar[float] = (
        5.0  # at 2 times the clicks it helps, at 7 it has lost what it gained (LOG.md)
    )

    kind: Literal["info_nce"] = "info_nce"
    on: list[str] | None = Field(default=None, min_length=1)
    """Levels of the log, and `batch` or `catalogue` for items beyond it; all levels unless given."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all of a level unless given."""
    margin: NonNegativeFloat = 0.0
    """By how much a logit must lead that of the next lower level; twice as much that of the one below."""
    temperature: PositiveFloat = 1.0
    """Divides logits and margin."""

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        funnel.check_sources(self.on or funnel.levels, self.per_request, key, "on")
        if self.top_grade(funnel) == 0:
            raise ConfigError(
                f"{key}.on: two levels are needed, or exposed candidates, or nothing stands over another; "
                f"received {self.on}"
            )

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.source_code(level, "on"): self.per_request for level in self.on or funnel.levels}

    def grades(self, funnel: FunnelSpec) -> dict[int, int]:
        """Level or source → the grade of its candidates, from 0, without what the label adds."""
        codes = sorted(self.population(funnel))
        drawn = [code for code in codes if code in SOURCES.values()]
        levels = [code for code in codes if code not in drawn]
        return dict.fromkeys(drawn, 0) | {code: n for n, code in enumerate(levels, start=bool(drawn))}

    def top_grade(self, funnel: FunnelSpec) -> int:
        """The highest grade: of clicked candidates, if exposed ones are among the levels."""
        grades = self.grades(funnel)
        return max(grades.values()) + (len(funnel.levels) - 1 in grades)

    def _graded(self, counts: SplitCounts, funnel: FunnelSpec) -> list[int]:
        """The rows of a split of each grade, from 0."""
        rows = [0] * (self.top_grade(funnel) + 1)
        for code, grade in self.grades(funnel).items():
            rows[grade] += counts.rows({code: self.per_request})
        if len(funnel.levels) - 1 in self.grades(funnel):
            rows[-1] = min(counts.labels[self.label].positives, rows[-2])
            rows[-2] -= rows[-1]
        return rows

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        rows = self._graded(counts, funnel)
        filled = [count for count in rows if count]
        if not filled:
            return Targets(0, 0, 0)
        return Targets(sum(rows), sum(rows) - filled[0], sum(rows) - filled[-1])

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """The mean over grades of ln(1 + candidates below): all score alike, in a request of average length.

        The margin, which only favours deeper grades, is left out.
        """
        each = [rows / max(counts.requests, 1) for rows in self._graded(counts, funnel)]
        sizes = [math.log1p(sum(each[:grade])) for grade in range(1, len(each)) if each[grade]]
        return sum(sizes) / len(sizes) if sizes else None

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        PaddedLists.of_population(batch, self.population(funnel))

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        lists = PaddedLists.of_population(batch, self.population(funnel))
        z = lists(outputs[self.stage].logits[self.label] / self.temperature)
        grade, margin = lists(self._grade_candidates(batch, funnel)[0]), self.margin / self.temperature
        value, count = torch.zeros_like(z[:, :1].sum(1)), torch.zeros_like(lists.size)
        for g, (higher, lower) in enumerate(self._compared(batch, funnel), start=1):
            # a finite floor, so that a request without lower candidates has gradients that are numbers
            against = (z + margin * (g - grade)).masked_fill(~lower, -FAR).logsumexp(1)
            mine = higher.sum(1)
            losses = torch.where(higher, torch.nn.functional.softplus(against.unsqueeze(1) - z), 0)
            value = value + losses.sum(1) / mine.clamp_min(1)
            count = count + (mine > 0)
        return value / count.clamp_min(1), self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        lists = PaddedLists.of_population(batch, self.population(funnel))
        some = torch.stack([higher.any(1) for higher, _ in self._compared(batch, funnel)]).any(0)
        return lists.mean(lists(batch.weight)) * some

    def _compared(self, batch: Batch, funnel: FunnelSpec) -> Sequence[tuple[Tensor, Tensor]]:
        """The candidates of each grade, from 1, that have some below them, and those below: (R, n) bool each."""
        population = self.population(funnel)

        def compare() -> Sequence[tuple[Tensor, Tensor]]:
            lists = PaddedLists.of_population(batch, population)
            grade, unknown = (lists(values) for values in self._grade_candidates(batch, funnel))
            top, compared = self.top_grade(funnel), []
            for g in range(1, top + 1):
                lower = lists.mask & (grade < g)
                if g == top:
                    lower &= unknown == 0
                compared.append((lists.mask & (grade == g) & lower.any(1, keepdim=True), lower))
            return tuple(compared)

        return batch.once(("compared", self.label, *population.items()), compare)

    def _grade_candidates(self, batch: Batch, funnel: FunnelSpec) -> tuple[Tensor, Tensor]:
        """The grade of each candidate, and whether it may be of the highest, as its label is unknown: (C,), (C,)."""
        of_level = torch.zeros(256, device=batch.level.device)
        for code, grade in self.grades(funnel).items():
            of_level[code] = grade
        label, exposed = batch.labels[self.label], batch.level == batch.exposed
        return of_level[batch.level.long()] + (exposed & (label > 0)), (exposed & (label < 0)).float()
