"""Loss `listwise`: a softmax over the candidates of a request, of which the clicked ones must get the mass.

Letters: R requests · C candidates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.label_lists import grade_candidates, list_logits
from corank.losses.levels import softmax
from corank.losses.padded import PaddedLists
from corank.losses.settings.listwise import ListwiseLoss
from corank.models.stage_io import StageOutput


def listwise_values(
    loss: ListwiseLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `ListwiseLoss`."""
    z = list_logits(loss, outputs)
    grade, known = grade_candidates(loss, batch)
    lists = PaddedLists.of(batch, known)
    gain = torch.tensor(loss.gain_of_grade, dtype=z.dtype, device=z.device)[grade]
    value, eligible = softmax(lists(z, -torch.inf), lists(gain))
    return value, lists.mean(lists(batch.weight)) * eligible
