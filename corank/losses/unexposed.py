"""Loss `unexposed`: candidates that were not shown, as negatives of the pre-ranker, against sample selection bias."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import softplus

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.settings.unexposed import UnexposedLoss
from corank.models.stage_io import StageOutput


def unexposed_values(
    loss: UnexposedLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `UnexposedLoss`."""
    return softplus(outputs[loss.stage].logits[loss.label]), batch.weight * batch.in_population(
        loss.population(funnel)
    )
