"""Loss `pairwise`: of two candidates of a request the one with the better label must lead.

Letters: R requests · C candidates.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from corank.batches.batch import Batch
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.label_lists import LabelListLoss
from corank.losses.levels import pairs
from corank.losses.padded import PaddedLists
from corank.models.stage_io import StageOutput


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
        grade, known = self.grades(batch)
        gains = self.gain_of_grade
        by_grade = [PaddedLists.of(batch, known & (grade == g)) for g in range(len(gains))]
        value, mass = pairs(self.logits(outputs), by_grade, gains)
        lists = PaddedLists.of(batch, known)
        return value / mass.where(mass > 0, 1), lists.mean(lists(batch.weight)) * (mass > 0)
