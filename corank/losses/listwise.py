"""Loss `listwise`: a softmax over the candidates of a request, of which the clicked ones must get the mass.

Letters: R requests · C candidates.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.label_lists import LabelListLoss
from corank.losses.levels import softmax
from corank.losses.padded import PaddedLists
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
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        z = self.logits(outputs)
        grade, known = self.grades(batch)
        lists = PaddedLists.of(batch, known)
        gain = torch.tensor(self.gain_of_grade, dtype=z.dtype, device=z.device)[grade]
        value, eligible = softmax(lists(z, -torch.inf), lists(gain))
        return value, lists.mean(lists(batch.weight)) * eligible
