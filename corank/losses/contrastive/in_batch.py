"""Loss `in_batch`: a clicked item must lead the other items of the batch, so that the vectors serve retrieval.

Letters: R requests · C candidates · J distinct items of the batch, of all ranks · P clicked candidates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.contrastive.batch_items import BatchItems
from corank.losses.padded import FAR
from corank.losses.settings.in_batch import InBatchLoss
from corank.models.stage_io import StageOutput


def in_batch_values(
    loss: InBatchLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `InBatchLoss`."""
    clicked = torch.nonzero(batch.label_weight(loss.label) * (batch.labels[loss.label] > 0)).squeeze(1)
    vectors = outputs[loss.stage].vectors
    assert vectors is not None  # `check` has made sure
    items = BatchItems.of(batch, vectors.items()[: len(batch.share)])
    request, item = batch.request_of[clicked], items.item[batch.item_of[clicked].long()]

    clicking, row = request.unique_consecutive(return_inverse=True)
    query = vectors.scale / loss.temperature * vectors.query.float()[clicking]
    shift = (vectors.bias / loss.temperature - items.log_p).masked_fill(items.hidden, -FAR)
    z = torch.addmm(shift, query, items.vectors.t())  # (requests with a click, J)
    others = z.index_put_((row, item), z.new_tensor(-FAR)).logsumexp(1)
    own = outputs[loss.stage].logits[loss.label][clicked] / loss.temperature - items.log_p[item]
    return softplus(others[row] - own), batch.weight[clicked]
