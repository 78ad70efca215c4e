"""Loss `pseudo_label`: mean predictions of teachers for candidates without labels, weighted less if they disagree.

Letters: C candidates · K predictions of the ensemble.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.settings.pseudo_label import PseudoLabelLoss
from corank.models.stage_io import StageOutput


def pseudo_label_values(
    loss: PseudoLabelLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `PseudoLabelLoss`."""
    predictions = predicted(loss, outputs, batch, funnel)
    known = batch.in_population(loss.population(funnel)) & ~predictions.isnan().any(1)
    predictions = predictions.nan_to_num()
    target = predictions.sigmoid().mean(1)
    certain = torch.exp(-loss.beta * predictions.std(1, correction=0))
    values = binary_cross_entropy_with_logits(
        outputs[loss.student].logits[loss.label], target, reduction="none"
    )
    return values, batch.weight * known * certain


def predicted(
    loss: PseudoLabelLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> Tensor:
    """The detached logits of all predictions of the ensemble, NaN where a score is unknown: (C, K)."""
    predictions = []
    for name in loss.ensemble:
        if name in funnel.scores:
            predictions.append(batch.scores[name].unsqueeze(1))
            continue
        output = outputs[name]
        z = output.members[loss.label] if output.members else output.logits[loss.label].unsqueeze(1)
        predictions.append(z.detach())
    return torch.cat(predictions, 1)
