"""Loss `mimic`: the generators of two towers imagine the other side's vector of a positive pair.

Letters: R requests · C candidates · P clicked candidates · d width of the vectors, less biases.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.settings.mimic import MimicLoss
from corank.models.stage_io import StageOutput


def mimic_values(
    loss: MimicLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `MimicLoss`."""
    clicked = torch.nonzero(batch.label_weight(loss.label) * (batch.labels[loss.label] > 0)).squeeze(1)
    mimics = outputs[loss.stage].mimics
    assert mimics is not None  # `check` has made sure
    request, item = batch.request_of[clicked].long(), batch.item_of[clicked].long()
    # not by an index, whose gradient adds up in no fixed order
    of_item, of_query = embedding(request, mimics.of_item()), embedding(item, mimics.of_query())
    query, item_vector = normalize(mimics.query[request], dim=1), normalize(mimics.item[item], dim=1)
    return 2 - (of_item * item_vector).sum(1) - (of_query * query).sum(1), batch.weight[clicked]
