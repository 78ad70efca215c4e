"""Loss `pairwise`: of two candidates of a request the one with the better label must lead."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.settings.label_lists import LabelListLoss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
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
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.pairwise import pairwise_values

        return pairwise_values(self, outputs, batch, funnel)
