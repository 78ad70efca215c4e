"""A loss: InfoNCE with a margin, over the levels of the funnel.

    losses:
      - {kind: margin_info_nce, stage: prerank, margin: 0.2, per_request: 10}

Source: InfoNCE, van den Oord, Li and Vinyals, arXiv 1807.03748; the margin as in additive-margin softmax, Wang et al.,
IEEE Signal Processing Letters 2018.

Letters: R requests · C candidates · n the longest list of a batch.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.sampling import Population
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES, FunnelSpec, StageLoss
from corank.losses.padded import PaddedLists
from corank.models.stage_io import StageOutput


@LOSSES.register("margin_info_nce")
class MarginInfoNceLoss(StageLoss):
    """L = mean over a of −log( e^{z_a − m} / (e^{z_a − m} + Σ_b e^{z_b}) ), b of a's request and of a shallower level.

    z is the logit over the temperature, m the margin. A candidate with no shallower one in its request does not count.
    """

    kind: Literal["margin_info_nce"]
    margin: NonNegativeFloat = 0.1
    temperature: PositiveFloat = 1.0
    per_request: PositiveInt | None = None
    """Candidates of each level and request; all of them unless given."""

    def check(self, funnel: FunnelSpec, key: str) -> None:
        super().check(funnel, key)
        if not funnel.levelled:
            raise ConfigError(f"{key}: compares levels, and the log has none; give data.level")

    def population(self, funnel: FunnelSpec) -> Population:
        return dict.fromkeys(range(len(funnel.levels)), self.per_request)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        lists = PaddedLists.of(batch, batch.in_population(self.population(funnel)))
        z = lists(outputs[self.stage].logits[self.label] / self.temperature)
        level = lists(batch.level.to(z.dtype), -1.0)
        loss, compared = info_nce(z, level, lists.mask, self.margin)
        return loss, lists.mean(lists(batch.weight)) * compared


def info_nce(z: Tensor, level: Tensor, mask: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The loss of each list, and whether it has two levels: (R, n) each → (R,), (R,)."""
    shallower = (level.unsqueeze(1) < level.unsqueeze(2)) & mask.unsqueeze(1)
    anchor = shallower.any(2) & mask
    # a row without negatives is masked below; zeros keep its gradient a number
    negatives = torch.where(shallower, z.unsqueeze(1), -torch.inf)
    negatives = torch.where(anchor.unsqueeze(2), negatives, 0).logsumexp(2)
    positive = z - margin
    values = torch.where(anchor, torch.logaddexp(positive, negatives) - positive, 0)
    count = anchor.sum(1)
    return values.sum(1) / count.clamp_min(1), count > 0
