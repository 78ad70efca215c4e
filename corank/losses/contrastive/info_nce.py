"""Loss `info_nce`: a candidate of each level of the log against those of all lower levels, by a margin.

Letters: R requests · C candidates · n the longest list.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.padded import FAR, PaddedLists
from corank.losses.settings.info_nce import InfoNceLoss
from corank.models.stage_io import StageOutput


def info_nce_values(
    loss: InfoNceLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `InfoNceLoss`."""
    lists = PaddedLists.of(batch, batch.in_population(loss.population(funnel)))
    z = lists(outputs[loss.stage].logits[loss.label] / loss.temperature)
    grade, unknown = (lists(values) for values in _grades(loss, batch, funnel))
    top, margin = loss.top_grade(funnel), loss.margin / loss.temperature
    value, count = torch.zeros_like(z[:, :1].sum(1)), torch.zeros_like(lists.size)
    for g in range(1, top + 1):
        lower = lists.mask & (grade < g)
        if g == top:
            lower &= unknown == 0
        # a finite floor, so that a request without lower candidates has gradients that are numbers
        against = (z + margin * (g - grade)).masked_fill(~lower, -FAR).logsumexp(1)
        higher = lists.mask & (grade == g) & lower.any(1, keepdim=True)
        mine = higher.sum(1)
        losses = torch.where(higher, softplus(against.unsqueeze(1) - z), 0)
        value = value + losses.sum(1) / mine.clamp_min(1)
        count = count + (mine > 0)
    return value / count.clamp_min(1), lists.mean(lists(batch.weight)) * (count > 0)


def _grades(loss: InfoNceLoss, batch: Batch, funnel: FunnelSpec) -> tuple[Tensor, Tensor]:
    """The grade of each candidate, and whether it may be of the highest, since its label is unknown: (C,), (C,)."""
    of_level = torch.zeros(256, device=batch.level.device)
    for code, grade in loss.grades(funnel).items():
        of_level[code] = grade
    label, exposed = batch.labels[loss.label], batch.level == batch.exposed
    return of_level[batch.level.long()] + (exposed & (label > 0)), (exposed & (label < 0)).float()
