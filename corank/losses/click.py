"""Loss `click`: binary cross-entropy of a stage's label on exposed candidates, with a learnt effect of the position."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.settings.click import ClickLoss
from corank.models.stage_io import StageOutput


def click_values(
    loss: ClickLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `ClickLoss`."""
    target = batch.labels[loss.label].clamp_min(0)
    z = outputs[loss.stage].logits[loss.label]
    positions = outputs[loss.stage].positions
    if loss.label in positions:
        z = z + positions[loss.label]
    values = binary_cross_entropy_with_logits(z, target, reduction="none")
    return values, batch.label_weight(loss.label)
