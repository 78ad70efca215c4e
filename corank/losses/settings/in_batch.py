"""Loss `in_batch`: a clicked item must lead the other items of the batch, so that the vectors serve retrieval."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.core.errors import ConfigError
from corank.losses.base import LOSSES, FunnelSpec, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("in_batch")
class InBatchLoss(Loss):
    """Sampled softmax over the batch's items, corrected for how often an item is sampled.

    L = mean over clicked (r, i) of −log softmax of z_ri − log p_i among i and the items that r did not click, with
    z_rj = exp(s)·⟨q_r, v_j⟩ / temperature and s the learnt scale of the towers.

    p_j = 1 − (1 − share_j)^C is the probability that item j is in a batch at all: items of a batch are distinct,
    so one that is drawn twice counts once. share_j is the item's share of the log's candidates (`Batch.share`), C
    the number of the batch's candidates from the log; draws beyond the log are left out. Shares are of the log,
    since a batch of a large catalogue holds nearly every item once. A batch is that of all ranks.

    Source: the correction of Yi et al., RecSys 2019 (doi 10.1145/3298689.3346996), where q is the p here.
    """

    kind: Literal["in_batch"] = "in_batch"
    stage: str
    """The stage to train; it must have vectors."""
    label: str = "click"
    """The label whose positives are the targets."""
    temperature: PositiveFloat = 1.0
    """Divides the logits."""

    @property
    def name(self) -> str:
        return f"{self.stage}.in_batch"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_label(self.stage, self.label, f"{key}.stage")
        if self.stage not in funnel.with_vectors:
            such_as = (
                funnel.with_vectors[0] if funnel.with_vectors else "one of model: towers without matches"
            )
            raise ConfigError(
                f"{key}.stage: '{self.stage}' has no vectors of queries and items whose product alone orders them; "
                f"name a stage that has, such as {such_as}"
            )

    def population(self, funnel: FunnelSpec) -> Population:
        return {len(funnel.levels) - 1: None}

    def needed_labels(self) -> Sequence[str]:
        return [self.label]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        clicked = counts.labels[self.label].positives
        return Targets(clicked, clicked, clicked)  # each leads items of other requests

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """ln of the batch's items: all score alike. At most as many as the batch has exposed candidates."""
        items = requests * counts.levels[-1] / max(counts.requests, 1)
        return math.log(items) if items > 1 else None

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.contrastive.in_batch import in_batch_values

        return in_batch_values(self, outputs, batch, funnel)
