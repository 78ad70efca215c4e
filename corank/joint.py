"""All stages as one model over shared embedding tables.

Letters: R requests · I distinct items · C candidates.
"""

from collections.abc import Iterable, Sequence
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
from corank.teacher import Teacher, TeacherSettings

Stage = Annotated[TowersSettings | MlpSettings, Field(discriminator="model")]
Logits = dict[str, dict[str, Tensor]]
"""Stage → label → (C,)."""


class JointModel(nn.Module):
    """Stages in the order of the cascade, and who only teaches; one pass over a batch gives the logits of all."""

    def __init__(
        self, stages: Sequence[Stage], layout: Layout, teachers: Sequence[TeacherSettings] = ()
    ) -> None:
        super().__init__()
        self.layout = layout
        every = (*stages, *teachers)
        self.tables_of = {s.name: "shared" if s.embeddings == "shared" else s.name for s in every}
        """Stage or teacher → the name of its tables."""
        self.tables = nn.ModuleDict({name: Tables(layout) for name in dict.fromkeys(self.tables_of.values())})
        self.stages = nn.ModuleDict({s.name: _build(s, layout) for s in stages})
        self.teachers = nn.ModuleDict({s.name: Teacher(s, layout) for s in teachers})
        self.frozen_tables = {s.name for s in every if not s.table_gradient}
        self.dtype = torch.float32
        """Precision of the products; weights stay fp32."""

    def forward(self, batch: Batch) -> Logits:
        return self.logits(batch, self.stages)

    def logits(self, batch: Batch, stages: Iterable[str]) -> Logits:
        """The logits of some stages or teachers; the others cost nothing."""
        inputs: dict[str, dict[Placement, Tensor]] = {}
        logits: Logits = {}
        for name in stages:
            tables = self.tables_of[name]
            if tables not in inputs:
                inputs[tables] = self.inputs(batch, tables)
            seen = inputs[tables]
            if name in self.frozen_tables:
                seen = {placement: x.detach() for placement, x in seen.items()}
            logits[name] = self.networks[name](seen, batch)
        return logits

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The stages, then the teachers."""
        return {**dict(self.stages.items()), **dict(self.teachers.items())}

    def inputs(self, batch: Batch, tables: str = "shared") -> dict[Placement, Tensor]:
        """Dense inputs by placement: query (R, ·), item (padded I, ·), cross (padded C, ·)."""
        sums = {dim: iter(parts) for dim, parts in self.tables[tables](batch.lookups).items()}
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
