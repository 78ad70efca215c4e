"""All stages as one model over shared embedding tables.

Letters: R requests · I distinct items · C candidates · H distinct items of histories.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from corank.batches.batch import Batch
from corank.batches.build import padded
from corank.core.ordering import soft_ranks
from corank.features.input_layout import Attended, Layout
from corank.features.schema import PLACEMENTS, Placement
from corank.models.embedding import Tables
from corank.models.mlp import Mlp, MlpSettings
from corank.models.stage_io import StageOutput
from corank.models.teacher import Teacher, TeacherSettings
from corank.models.two_tower import Towers, TowersSettings

Stage = Annotated[TowersSettings | MlpSettings, Field(discriminator="model")]


class JointModel(nn.Module):
    """Stages in the order of the cascade, and who only teaches; one pass over a batch gives the logits of all."""

    def __init__(
        self,
        stages: Sequence[Stage],
        layout: Layout,
        teachers: Sequence[TeacherSettings] = (),
        positions: int = 0,
    ) -> None:
        """`positions`: how many there are on a page, where the log tells them."""
        super().__init__()
        self.layout = layout
        every = (*stages, *teachers)
        self.tables_of = {s.name: "shared" if s.embeddings == "shared" else s.name for s in every}
        """Stage or teacher → the name of its tables."""
        self.tables = nn.ModuleDict({name: Tables(layout) for name in dict.fromkeys(self.tables_of.values())})
        self.stages = nn.ModuleDict({s.name: _build(s, layout) for s in stages})
        self.teachers = nn.ModuleDict({s.name: Teacher(s, layout) for s in teachers})
        self.frozen_tables = {s.name for s in every if not s.table_gradient}
        self.main = {s.name: s.main for s in stages}
        """Stage → the label by which others see it."""
        self.sees = {s.name: s.sees() for s in stages if isinstance(s, MlpSettings) and s.from_stages}
        """Stage → what it sees of earlier ones."""
        self.positions = positions
        for network in every if positions else ():
            terms = [nn.Parameter(torch.zeros(positions)) for _ in network.labels]
            self.networks[network.name].position = nn.ParameterList(terms)
        self.labels = {network.name: list(network.labels) for network in every}
        self.dtype = torch.float32
        """Precision of the products; weights stay fp32."""

    def forward(self, batch: Batch) -> dict[str, StageOutput]:
        """The outputs of every stage, by name."""
        return self.outputs(batch, self.stages)

    def outputs(self, batch: Batch, stages: Iterable[str]) -> dict[str, StageOutput]:
        """The outputs of some stages or teachers, by name. A stage that none of them needs is not computed."""
        stages = list(stages)
        inputs: dict[str, dict[Placement | Attended, Tensor]] = {}
        outputs: dict[str, StageOutput] = {}
        for name in self._with_earlier(stages):
            tables = self.tables_of[name]
            if tables not in inputs:
                inputs[tables] = self.inputs(batch, tables)
            seen = inputs[tables]
            if name in self.frozen_tables:
                seen = {placement: x.detach() for placement, x in seen.items()}
            earlier = (self._earlier(name, outputs, batch),) if name in self.sees else ()
            outputs[name] = self.networks[name](seen, batch, *earlier)
        if not self._learns_positions(batch):
            return {name: outputs[name] for name in stages}
        return {name: replace(outputs[name], positions=self._position_terms(batch, name)) for name in stages}

    def _with_earlier(self, stages: Sequence[str]) -> list[str]:
        """The stages and all that they see something of, in the order of the cascade."""
        wanted = set(stages)
        for name in reversed(list(self.stages)):
            if name in wanted:
                wanted |= {stage for stage, _ in self.sees.get(name, ())}
        return [name for name in self.networks if name in wanted]

    def _earlier(self, name: str, outputs: Mapping[str, StageOutput], batch: Batch) -> Tensor:
        """What a stage sees of earlier ones, by no gradient: (C, ·)."""
        columns = []
        for stage, what in self.sees[name]:
            z = outputs[stage].logits[self.main[stage]].detach().float()
            columns.append(z if what == "score" else _places(z, batch))
        return torch.stack(columns, 1)

    def _learns_positions(self, batch: Batch) -> bool:
        return bool(self.positions) and self.training and batch.position is not None

    def _position_terms(self, batch: Batch, name: str) -> dict[str, Tensor]:
        """What each candidate's position adds to a stage's logits, by label; 0 if it is unknown: (C,)."""
        assert batch.position is not None
        known = (batch.position >= 0).float()
        terms = {}
        for label, term in self.terms(name).items():
            # not by an index, whose gradient adds up in no fixed order
            found = embedding(batch.position.clamp_min(0), term.unsqueeze(1)).squeeze(1)
            terms[label] = found * known
        return terms

    def terms(self, name: str) -> dict[str, nn.Parameter]:
        """What each position adds to a stage's logits, by label; empty where none is logged."""
        held = getattr(self.networks[name], "position", None)
        return {} if held is None else dict(zip(self.labels[name], held, strict=True))

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The stages, then the teachers."""
        return {**dict(self.stages.items()), **dict(self.teachers.items())}

    @property
    def attended(self) -> tuple[Attended, ...]:
        """The histories that some stage or teacher attends to."""
        found = (getattr(network, "attended", None) for network in self.networks.values())
        return tuple(dict.fromkeys(attended for attended in found if attended is not None))

    @property
    def sees_ranks(self) -> bool:
        """Whether some stage sees where another places a candidate."""
        return any(what == "place" for seen in self.sees.values() for _, what in seen)

    def inputs(self, batch: Batch, tables: str = "shared") -> dict[Placement | Attended, Tensor]:
        """Dense inputs by placement: query (R, ·), item (padded I, ·), cross (padded C, ·); and (padded H, ·) of the
        items of each history attended to."""
        sums = {dim: iter(parts) for dim, parts in self.tables[tables](batch.lookups).items()}
        inputs: dict[Placement | Attended, Tensor] = {}
        for placement in PLACEMENTS:
            numbers = batch.numbers[placement]
            parts = [
                next(sums[group.dim]).reshape(len(numbers), group.width)
                for group in self.layout.groups[placement]
            ]
            parts += [numbers] if numbers.shape[1] or not parts else []
            inputs[placement] = self._filled(parts, fill=placement != "query")
        for attended in batch.histories:
            groups = self.layout.groups_of("item", attended.features)
            parts = [next(sums[group.dim]).reshape(-1, group.width) for group in groups]
            inputs[attended] = self._filled(parts, fill=True)
        return inputs

    def _filled(self, parts: list[Tensor], fill: bool) -> Tensor:
        x = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).to(self.dtype)
        empty = padded(len(x)) - len(x) if fill else 0
        return pad(x, (0, 0, 0, empty)) if empty else x


def _places(z: Tensor, batch: Batch) -> Tensor:
    """Each candidate's place among those of its request: (C,). On the processor, as it is when serving."""
    assert batch.requests.start is not None
    weight = None if batch.represents is None else batch.represents.cpu().numpy()
    found = soft_ranks(z.cpu().numpy(), batch.requests.start.cpu().numpy().astype(np.int64), weight)
    return torch.from_numpy(found).to(z.device)


def _build(settings: Stage, layout: Layout) -> nn.Module:
    return Towers(settings, layout) if isinstance(settings, TowersSettings) else Mlp(settings, layout)
