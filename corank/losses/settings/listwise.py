"""Loss `listwise`: a softmax over the candidates of a request, of which the clicked ones must get the mass."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.settings.label_lists import LabelListLoss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("listwise")
class ListwiseLoss(LabelListLoss):
    """Softmax cross-entropy of a request's list: L = −Σ_i G_i log softmax(z)_i / Σ_i G_i, G the gain of the grade.

    With one label it is the mean of −log softmax(z) over the clicked. A list counts if two of its gains differ; the
    lists are weighted by the mean `weight` of their candidates. Sources: Cao et al., ListNet, ICML 2007, the top-one
    probability; Bruch et al., An Analysis of the Softmax Cost Function for Learning to Rank, ICTIR 2019.
    """

    kind: Literal["listwise"] = "listwise"

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.listwise import listwise_values

        return listwise_values(self, outputs, batch, funnel)
