"""`in_batch`: a clicked item stands over the batch's other items, so that the vectors serve retrieval.

Letters: R requests · C candidates · I distinct items · P clicked candidates.
"""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import softplus

from corank.batch import Batch
from corank.errors import ConfigError
from corank.losses.term import Logits, Scope, Term
from corank.prerank import Dots
from corank.sampling import SOURCES, Population


class InBatch(Term):
    """L = mean over clicked (r, i) of −log softmax of z_ri − log p_i among i and the items that r did not click.

    z_rj = exp(s)·⟨q_r, v_j⟩ / temperature, s the learnt scale of the towers. p_j is the probability that item j is in a
    batch at all, 1 − (1 − share_j)^C: items are distinct, so one that is in the batch twice counts once. share_j is the
    item's share of the log's candidates (`Batch.share`), C those of the batch; draws beyond the log are left out.
    Counted over the log, since a batch of a large catalogue says of nearly all its items that they are there once.

    Source: the correction of Yi et al., RecSys 2019 (doi 10.1145/3298689.3346996), whose q is here p.
    """

    kind: Literal["in_batch"]
    stage: str
    label: str = "click"
    temperature: PositiveFloat = 1.0

    @property
    def name(self) -> str:
        return f"{self.stage}.in_batch"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, scope: Scope, key: str) -> None:
        scope.check(self.stage, self.label, f"{key}.stage")
        if self.stage not in scope.towers:
            raise ConfigError(
                f"{key}.stage: '{self.stage}' is an mlp and has no vectors of queries and items; "
                f"name a stage of model: towers{', such as ' + scope.towers[0] if scope.towers else ''}"
            )

    def population(self, scope: Scope) -> Population:
        return {len(scope.levels) - 1: None}

    def values(self, logits: Logits, batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        clicked = torch.nonzero(batch.known(self.label) * (batch.labels[self.label] > 0)).squeeze(1)
        request, item = batch.request_of[clicked].long(), batch.item_of[clicked].long()
        log = batch.level < min(SOURCES.values())
        log_p = torch.log(-torch.expm1(log.sum() * torch.log1p(-batch.share)))
        towers = logits[self.stage]
        assert isinstance(towers, Dots)
        z = towers.pairs(len(batch.share)) / self.temperature - log_p
        left_out = torch.ones_like(z, dtype=torch.bool)
        left_out[:, batch.item_of[log].long()] = False
        left_out[request, item] = True
        others = z.masked_fill(left_out, torch.finfo(z.dtype).min).logsumexp(1)
        return softplus(others[request] - z[request, item]), batch.weight[clicked]
