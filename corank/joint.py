"""All stages as one model over shared embedding tables.

Letters: R requests · I distinct items · C candidates.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from corank.batch import Batch, padded
from corank.embedding import Tables
from corank.layout import Layout
from corank.prerank import Towers, TowersSettings
from corank.rank import Mlp, MlpSettings
from corank.schema import PLACEMENTS, Placement

Stage = Annotated[TowersSettings | MlpSettings, Field(discriminator="model")]
Logits = dict[str, dict[str, Tensor]]
"""Stage → label → (C,)."""


class JointModel(nn.Module):
    """Stages in the order of the cascade; one pass over a batch gives the logits of all."""

    def __init__(self, stages: Sequence[Stage], layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.tables = Tables(layout)
        self.stages = nn.ModuleDict({s.name: _build(s, layout) for s in stages})
        self.dtype = torch.float32
        """Precision of the products; weights stay fp32."""

    def forward(self, batch: Batch) -> Logits:
        inputs = self.inputs(batch)
        return {name: stage(inputs, batch) for name, stage in self.stages.items()}

    def inputs(self, batch: Batch) -> dict[Placement, Tensor]:
        """Dense inputs by placement: query (R, ·), item (padded I, ·), cross (padded C, ·)."""
        sums = {dim: iter(parts) for dim, parts in self.tables(batch.lookups).items()}
        inputs: dict[Placement, Tensor] = {}
        for placement in PLACEMENTS:
            numbers = batch.numbers[placement]
            parts = [
                next(sums[group.dim]).reshape(len(numbers), group.width)
                for group in self.layout.groups[placement]
            ]
            parts += [numbers] if numbers.shape[1] or not parts else []
            x = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).to(self.dtype)
            empty = 0 if placement == "query" else padded(len(x)) - len(x)
            inputs[placement] = pad(x, (0, 0, 0, empty)) if empty else x
        return inputs


def _build(settings: Stage, layout: Layout) -> nn.Module:
    return Towers(settings, layout) if isinstance(settings, TowersSettings) else Mlp(settings, layout)
