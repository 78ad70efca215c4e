"""All stages as one model over shared embedding tables.

Letters: R requests · C candidates · I', C', H' distinct items, candidates and distinct items of histories, rounded up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from corank.batches.batch import Batch, CandidateSubset, padded
from corank.batches.sampling import Population
from corank.core.errors import PluginError
from corank.core.ordering import soft_ranks
from corank.features.encoding import PLACEMENTS, Placement
from corank.features.input_layout import Attended, Layout, VectorColumns, event_groups
from corank.models.attention import BatchHistory
from corank.models.mlp import Teacher
from corank.models.pairs import BatchPairs
from corank.models.settings.mlp import TeacherSettings
from corank.models.settings.stage import StageSettings
from corank.models.stage_io import StageInputs, StageOutput
from corank.models.stage_model import StageModel, check_graphs
from corank.models.tables.builder import RankTables, TableBuilder
from corank.models.tables.embedding import Tables
from corank.models.tables.row_exchange import GradientSum

DenseInputs = dict[Placement | Attended, Tensor]
"""Dense inputs by placement: query (R, ·), item (I', ·), snapshot and cross (C', ·); and (H', ·) of the items of each
history attended to."""


class JointModel(nn.Module):
    """Stages in the order of the cascade, and who only teaches; one pass over a batch gives the logits of all."""

    def __init__(
        self,
        stages: Sequence[StageSettings],
        layout: Layout,
        teachers: Sequence[TeacherSettings] = (),
        positions: int = 0,
        tables: TableBuilder | None = None,
        loss_parameters: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """Build all networks.

        Args:
            stages: in the order of the cascade.
            layout: of the tables and the inputs.
            teachers: networks that only teach.
            positions: how many there are on a page, where the log has them.
            tables: makes the tables; whole ones, of seed 0, unless given.
            loss_parameters: stage or teacher → the names of losses that learn a number of their own there.
        """
        super().__init__()
        self.layout = layout
        every = (*stages, *teachers)
        self.tables_of = {s.name: "shared" if s.embeddings == "shared" else s.name for s in every}
        """Stage or teacher → the name of its tables."""
        tables = tables or TableBuilder()
        self.tables = nn.ModuleDict(tables.build(layout, dict.fromkeys(self.tables_of.values())))
        self.projections = nn.ModuleDict(
            {
                name: nn.ParameterList(draw_projection(shape) for shape in layout.projections.values())
                for name in dict.fromkeys(self.tables_of.values())
            }
        )
        """By name of the tables the projections of vectors, in the order of `Layout.projections`."""
        self.sharded = tables.sharded and not tables.ranks.alone
        """Whether this model has a shard of each table."""
        self.stages = nn.ModuleDict({s.name: build_stage(s, layout) for s in stages})
        self.teachers = nn.ModuleDict({s.name: Teacher(s, layout) for s in teachers})
        self.exact = {self.tables_of[s.name] for s in every if s.fitted}
        """The tables whose numbers are codes, which lower precision would round."""
        self.frozen_tables = {s.name for s in every if not s.table_gradient}
        self.main = {s.name: s.main for s in stages}
        """Stage → the label by which others see it."""
        self.earlier = {s.name: s.earlier() for s in stages if s.earlier()}
        """Stage → what it sees of earlier ones."""
        self.attends = {s.name: attended for s in every if (attended := s.attended(layout.schema))}
        """Stage or teacher → what it attends to."""
        self.positions = positions
        self.labels = {network.name: list(network.labels) for network in every}
        self.parameter_losses = {s.name: list(loss_parameters.get(s.name, ())) for s in every}
        """Stage or teacher → the names of losses that learn a number of their own there."""
        for name, network in self.networks.items():
            add_terms(network, len(self.labels[name]), positions, len(self.parameter_losses[name]))
        self.dtype = torch.float32
        """Precision of the products; weights stay fp32."""

    def forward(self, batch: Batch) -> dict[str, StageOutput]:
        """The outputs of every stage, by name."""
        return self.outputs(batch, self.stages)

    def outputs(
        self, batch: Batch, stages: Iterable[str], scored: Mapping[str, Population] = MappingProxyType({})
    ) -> dict[str, StageOutput]:
        """The outputs of some stages or teachers, by name. A stage that none of them needs is not computed.

        Args:
            batch: their candidates.
            stages: names of stages or teachers.
            scored: the candidates that networks score, by network; the logits of others are 0. One that is not named
                scores all.
        """
        stages = tuple(stages)
        dense: dict[str, DenseInputs] = {}
        outputs: dict[str, StageOutput] = {}
        for name in self.with_earlier(stages):
            tables = self.tables_of[name]
            if tables not in dense:
                dense[tables] = self.inputs(batch, tables)
            subset = CandidateSubset.of(batch, scored[name]) if name in scored else None
            pairs = BatchPairs(batch if subset is None else subset)
            inputs = self._stage_inputs(name, dense[tables], pairs, outputs, batch)
            output: StageOutput = self.networks[name](inputs).cut(len(pairs))
            outputs[name] = output if subset is None else output.spread(subset.index, len(batch))
        return {name: self._with_terms(outputs[name], name, batch) for name in stages}

    def with_earlier(self, stages: Sequence[str]) -> list[str]:
        """The stages or teachers, and all that they see something of, in the order of the cascade."""
        wanted = set(stages)
        for name in reversed(list(self.stages)) if self.earlier else ():
            if name in wanted:
                wanted |= {stage for stage, _ in self.earlier.get(name, ())}
        return [name for name in self.networks if name in wanted]

    def _stage_inputs(
        self,
        name: str,
        dense: DenseInputs,
        pairs: BatchPairs,
        outputs: Mapping[str, StageOutput],
        batch: Batch,
    ) -> StageInputs:
        """The inputs of a stage or teacher; `outputs` are those of the stages before it."""
        some, attended = pairs.batch, self.attends.get(name)
        if name in self.frozen_tables:
            dense = {placement: x.detach() for placement, x in dense.items()}
        history = None if attended is None else BatchHistory(dense[attended], some.histories[attended], some)
        earlier = None
        if name in self.earlier:
            columns = self._earlier_columns(name, outputs, batch)
            earlier = pairs.fill(pairs.select(columns)).to(self.dtype)
        return StageInputs(
            dense["query"],
            dense["item"],
            pairs.select_dense(dense["snapshot"]),
            pairs.select_dense(dense["cross"]),
            pairs,
            history,
            earlier,
            scores={score: pairs.select(z) for score, z in batch.scores.items()},
        )

    def _earlier_columns(self, name: str, outputs: Mapping[str, StageOutput], batch: Batch) -> Tensor:
        """What a stage sees of earlier ones, without gradient: (C, ·)."""
        columns = []
        for stage, what in self.earlier[name]:
            z = outputs[stage].logits[self.main[stage]].detach().float()
            columns.append(z if what == "score" else _soft_ranks(z, batch))
        return torch.stack(columns, 1)

    def _with_terms(self, output: StageOutput, name: str, batch: Batch) -> StageOutput:
        """The output of a stage or teacher with what only losses read."""
        if self.positions and self.training and batch.position is not None:
            output = replace(output, positions=look_up_positions(batch.position, self.terms(name)))
        parameters = self.loss_parameters(name)
        return replace(output, loss_parameters=parameters) if parameters else output

    def terms(self, name: str) -> dict[str, nn.Parameter]:
        """What each position adds to a stage's logits, by label; empty where none is logged."""
        parameters = getattr(self.networks[name], "position", None)
        return {} if parameters is None else dict(zip(self.labels[name], parameters, strict=True))

    def loss_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The numbers that losses learn at a stage or teacher, by the name of the loss: () each."""
        parameters = getattr(self.networks[name], "loss_parameter", None)
        return {} if parameters is None else dict(zip(self.parameter_losses[name], parameters, strict=True))

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """The stages, then the teachers."""
        return {**dict(self.stages.items()), **dict(self.teachers.items())}

    def network(self, stage: str) -> StageModel:
        """The network of a stage."""
        return cast(StageModel, self.stages[stage])

    @property
    def table_sets(self) -> dict[str, Tables]:
        """The sets of tables, by name; `tables_of` says which a stage or teacher has."""
        return cast(dict[str, Tables], dict(self.tables.items()))

    def agree(self, batch: Batch) -> GradientSum | None:
        """Begin to agree with the other ranks on a batch's table rows, unless that is begun. A collective.

        Returns what they agree on; None if there is nothing, or nobody to agree with.
        """
        tables = next(iter(self.table_sets.values()))
        return tables.agree(batch.lookups) if isinstance(tables, RankTables) and batch.lookups else None

    def fetch(self, batch: Batch, names: Iterable[str]) -> None:
        """Begin to get the table rows of the batch that some stages or teachers compute next, of other ranks."""
        for tables in dict.fromkeys(self.tables_of[name] for name in names) if batch.lookups else ():
            self.table_sets[tables].fetch(batch.lookups)

    @property
    def attended(self) -> tuple[Attended, ...]:
        """The histories that some stage or teacher attends to."""
        return tuple(dict.fromkeys(self.attends.values()))

    @property
    def sees_ranks(self) -> bool:
        """Whether some stage sees how another ranks a candidate."""
        return any(what == "rank" for earlier in self.earlier.values() for _, what in earlier)

    def inputs(self, batch: Batch, tables: str = "shared") -> DenseInputs:
        """The dense inputs of a batch, from one set of tables."""
        dtype = torch.float32 if tables in self.exact else self.dtype
        sums = {dim: iter(parts) for dim, parts in self.tables[tables](batch.lookups).items()}
        inputs: DenseInputs = {}
        for placement in PLACEMENTS:
            numbers = batch.numbers[placement]
            parts = [
                next(sums[group.dim]).reshape(len(numbers), group.width)
                for group in self.layout.groups[placement]
            ]
            vectors = self._vector_parts(batch.vectors[placement], self.layout.vectors[placement], tables)
            parts += [numbers] if numbers.shape[1] or not (parts or vectors) else []
            parts += vectors
            inputs[placement] = _filled(parts, dtype, fill=placement != "query")
        for attended in batch.histories:
            groups = event_groups(self.layout, attended.history, attended.features)
            parts = [next(sums[group.dim]).reshape(-1, group.width) for group in groups]
            columns = self.layout.vectors_of("item", attended.features)
            parts += self._vector_parts(batch.vectors[attended], columns, tables)
            inputs[attended] = _filled(parts, dtype, fill=True)
        return inputs

    def _vector_parts(
        self, vectors: Sequence[Tensor], columns: Sequence[VectorColumns], tables: str
    ) -> list[Tensor]:
        """The columns of vector features: the vectors, projected where that is set, and whether each is missing."""
        parts = []
        for vector, column in zip(vectors, columns, strict=True):
            x = vector.to(self.dtype)
            if column.shape.projection is None:
                parts.append(x)
            else:
                projected = x[:, :-1] @ self.projection(tables, column.name).to(self.dtype)
                parts += [projected, x[:, -1:]]
        return parts

    def projection(self, tables: str, name: str) -> nn.Parameter:
        """The projection of a vector feature, of one set of tables: (dimension, columns)."""
        parameters = cast(nn.ParameterList, self.projections[tables])
        projection: nn.Parameter = parameters[list(self.layout.projections).index(name)]
        return projection

    def layers(self, names: Iterable[str]) -> list[nn.Parameter]:
        """The weights outside of tables that some stages or teachers read: their networks', and projections."""
        names = list(names)
        sets = dict.fromkeys(self.tables_of[name] for name in names)
        networks = [self.networks[name] for name in names] + [self.projections[set_name] for set_name in sets]
        return [parameter for network in networks for parameter in network.parameters()]


def _filled(parts: list[Tensor], dtype: torch.dtype, fill: bool) -> Tensor:
    """Parts side by side, filled up with rows of zeros."""
    x = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).to(dtype)
    empty = padded(len(x)) - len(x) if fill else 0
    return pad(x, (0, 0, 0, empty)) if empty else x


def add_terms(network: nn.Module, labels: int, positions: int, losses: int) -> None:
    """Add the parameters to a network, all of them 0.

    Args:
        network: of a stage or teacher.
        labels: that it predicts.
        positions: how many there are on a page; 0 if the log does not have them.
        losses: how many learn a number there.
    """
    if positions:
        network.position = nn.ParameterList(nn.Parameter(torch.zeros(positions)) for _ in range(labels))
    if losses:
        network.loss_parameter = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(losses))


def look_up_positions(position: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each candidate's position adds to a stage's logits, by label; 0 if it is unknown, −1: (C,)."""
    known = (position >= 0).float()
    # not by an index, whose gradient adds up in no fixed order
    return {
        label: embedding(position.clamp_min(0), term.unsqueeze(1)).squeeze(1) * known
        for label, term in terms.items()
    }


def draw_projection(shape: tuple[int, int]) -> nn.Parameter:
    """Draw a projection that keeps the length of a vector, on average: (dimension, columns)."""
    return nn.Parameter(torch.randn(shape) / shape[1] ** 0.5)


def build_stage(settings: StageSettings, layout: Layout) -> StageModel:
    """Build the network of a stage. Raises PluginError if it does not fit what its settings say."""
    network: object = settings.build(layout)
    what = f"{type(settings).__module__}: stage model '{settings.model}'"
    if not isinstance(network, StageModel):
        raise PluginError(f"{what}: build must return a StageModel; received {type(network).__name__}")
    check_graphs(settings, network, what)
    return network


def _soft_ranks(z: Tensor, batch: Batch) -> Tensor:
    """Each candidate's soft rank among those of its request: (C,). On the processor, as it is when serving."""
    assert batch.requests.start is not None
    weight = None if batch.represents is None else batch.represents.cpu().numpy()
    ranks = soft_ranks(z.cpu().numpy(), batch.requests.start.cpu().numpy().astype(np.int64), weight)
    return torch.from_numpy(ranks).to(z.device)
