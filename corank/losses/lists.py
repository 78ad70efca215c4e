"""Losses `listwise` and `pairwise`, over lists: a request's exposed candidates, ordered by their labels.

Letters: R requests · C candidates · G labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, PositiveFloat, model_validator

from corank.batches.sampling import SplitCounts, Targets
from corank.core.lazy import lazy
from corank.core.settings import require_known
from corank.losses.base import LOSSES, FunnelSpec, StageLoss
from corank.losses.levels import differ, gains_of, pair_mass, pairs, softmax
from corank.losses.padded import PaddedLists

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


class Grades(NamedTuple):
    """How good each candidate proved to be, and the lists of those of which it is known."""

    grade: Tensor
    """0 where no label is 1, else the number of its best label, the weakest 1: (C,) int64."""
    known: Tensor
    """Whether the candidate is in the list: exposed, and its grade known: (C,) bool."""
    lists: PaddedLists
    by_grade: Sequence[PaddedLists]
    """Those of each grade, from 0."""


class LabelListLoss(StageLoss):
    """A loss over lists: the exposed candidates of a request, ordered by their labels.

    A candidate's grade is the best of `labels` that is 1. It is unknown, and the candidate left out, where the next
    better label is unknown: of [order, click], a click whose order is not mature yet. z is the stage's logit, with the
    learnt effect of the position as in `click`, over the temperature.

    Only differences of logits within a request are learnt: what is the same for all its candidates gets no gradient,
    and the logits need calibration to be probabilities.
    """

    labels: list[str] | None = Field(default=None, min_length=1)
    """Labels that order, the best first; `label` alone unless given."""
    gains: list[PositiveFloat] | None = None
    """What each of `labels` is worth; 2^g − 1 unless given, g = 1 for the last."""
    temperature: PositiveFloat = 1.0
    """Divides the logits."""

    @model_validator(mode="after")
    def _check_gains(self) -> Self:
        labels, gains = self.labels or [self.label], self.gains
        if len(set(labels)) < len(labels):
            raise ValueError(f"labels: each label once; received {', '.join(labels)}")
        if gains is None:
            return self
        if len(labels) < 2:
            raise ValueError("gains: with a single label they change nothing; drop them, or give more labels")
        if len(gains) != len(labels) or sorted(set(gains), reverse=True) != gains:
            raise ValueError(
                f"gains: expected {len(labels)} falling numbers, one a label of {', '.join(labels)}; received {gains}"
            )
        return self

    @property
    def order(self) -> Sequence[str]:
        """The labels that order, the best first."""
        return self.labels or [self.label]

    @property
    def gain_of_grade(self) -> list[float]:
        """The gain of each grade, from 0."""
        gains = self.gains or [2.0**grade - 1 for grade in range(len(self.order), 0, -1)]
        return [0.0, *reversed(gains)]

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        for label in self.order:
            require_known(label, funnel.labels, f"{key}.labels", "label", "data.labels")

    def needed_labels(self) -> Sequence[str]:
        return self.order

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        """Rows of requests that hold a 1 and a 0 of a label; of several labels, of the one that has the most."""
        mixed_counts = [counts.mixed[label] for label in self.order]
        return Targets(
            max(mixed.positives + mixed.negatives for mixed in mixed_counts),
            max(mixed.positives for mixed in mixed_counts),
            max(mixed.negatives for mixed in mixed_counts),
        )

    def logits(self, outputs: Mapping[str, StageOutput]) -> Tensor:
        """The logits that the lists are ordered by: (C,)."""
        return self.placed_logits(outputs) / self.temperature

    def grade_candidates(self, batch: Batch) -> Grades:
        """Grade the candidates of a batch, once for all losses of the same labels."""
        return batch.once(("grades", *self.order), lambda: self._grade(batch))

    def prepare(self, batch: Batch, funnel: FunnelSpec) -> None:
        self.grade_candidates(batch)
        gains_of(batch, self.gain_of_grade)

    def _grade(self, batch: Batch) -> Grades:
        labels = torch.stack([batch.labels[label] for label in reversed(self.order)])  # (G, C)
        number = torch.arange(1, len(labels) + 1, device=labels.device).unsqueeze(1)
        grade = ((labels > 0) * number).amax(0)
        unknown = torch.nn.functional.pad(labels < 0, (0, 0, 0, 1))  # above the best label there is none
        above = unknown.gather(0, grade.unsqueeze(0)).squeeze(0)
        known = (batch.level == batch.exposed) & ~above
        by_grade = [PaddedLists.of(batch, known & (grade == g)) for g in range(len(labels) + 1)]
        return Grades(grade, known, PaddedLists.of(batch, known), tuple(by_grade))


@LOSSES.register("listwise")
class ListwiseLoss(LabelListLoss):
    """Softmax cross-entropy of a request's list: L = −Σ_i G_i log softmax(z)_i / Σ_i G_i, G the gain of the grade.

    With one label it is the mean of −log softmax(z) over the clicked. A list counts if two of its gains differ; the
    lists are weighted by the mean `weight` of their candidates. Sources: Cao et al., ListNet, ICML 2007, the top-one
    probability; Bruch et al., An Analysis of the Softmax Cost Function for Learning to Rank, ICTIR 2019.
    """

    kind: Literal["listwise"] = "listwise"

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        lists, weights = self.grade_candidates(batch).lists, self.weights(batch, funnel)
        return softmax(lists(self.logits(outputs), -torch.inf), self._gains(batch), weights > 0), weights

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        lists = self.grade_candidates(batch).lists
        return lists.mean(lists(batch.weight)) * differ(self._gains(batch), lists.mask)

    def _gains(self, batch: Batch) -> Tensor:
        """The gain of each candidate of the lists: (R, n)."""
        grades, gains = self.grade_candidates(batch), gains_of(batch, self.gain_of_grade)
        return grades.lists(gains.to(batch.weight.dtype)[grades.grade])


@LOSSES.register("pairwise")
class PairwiseLoss(LabelListLoss):
    """Logistic loss of a list's pairs, a better than b: L = Σ (G_a − G_b) softplus(z_b − z_a) / Σ (G_a − G_b).

    G is the gain of the grade, so that with one label all pairs weigh the same. A list counts if it has a pair; the
    lists are weighted by the mean `weight` of their candidates. The work grows with clicked times other candidates.
    Source: Burges et al., Learning to Rank Using Gradient Descent (RankNet), ICML 2005.
    """

    kind: Literal["pairwise"] = "pairwise"

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        grades, gains = self.grade_candidates(batch), gains_of(batch, self.gain_of_grade)
        mass, value = pair_mass(grades.by_grade, gains), pairs(self.logits(outputs), grades.by_grade, gains)
        return value / mass.where(mass > 0, 1), self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        grades, gains = self.grade_candidates(batch), gains_of(batch, self.gain_of_grade)
        return grades.lists.mean(grades.lists(batch.weight)) * (pair_mass(grades.by_grade, gains) > 0)
