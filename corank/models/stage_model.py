"""Stage models: what a `model:` of `stages:` is, and how to add one.

A stage model is two classes: settings, which hold a stage of the config, and the network that they build.
A plug-in has both in one file. Those of corank are two files of one name, `settings/mlp.py` and `mlp.py`: the settings
name the network, which is imported when it is built, so that a config is checked without torch. The same forward of
the network trains, evaluates and is exported, so that offline and online agree; it reads `StageInputs` and brings query
and item rows to candidates by `inputs.pairs` alone. There are two sorts:

- `StageModel`: any function of query, item and pair. Online its whole forward runs for every candidate (scorer
  `graph`).
- `VectorModel`: the logit is a product of a query vector and an item vector. Item vectors are computed ahead of
  requests, so a candidate costs one dot product (scorer `vectors`); retrieval and in-batch losses need them.

Example, a whole plug-in. With `plugins: [linear]` next to a config, `{model: linear, name: rank, keep: 10}` is a stage:

    from typing import Literal
    from torch import nn
    from corank.features.input_layout import Layout
    from corank.models.layers import linear
    from corank.models.settings.stage import STAGE_MODELS, StageSettings
    from corank.models.stage_io import StageInputs, StageOutput
    from corank.models.stage_model import StageModel

    @STAGE_MODELS.register("linear")
    class LinearSettings(StageSettings):
        model: Literal["linear"]
        value: str = "click"
        label: str = "click"

        @property
        def labels(self) -> list[str]:
            return [self.label]

        def build(self, layout: Layout) -> "Linear":
            return Linear(self, layout)

    class Linear(StageModel):
        def __init__(self, settings: LinearSettings, layout: Layout) -> None:
            super().__init__()
            self.label = settings.label
            self.query = nn.Linear(layout.width("query"), 1)
            self.item = nn.Linear(layout.width("item"), 1, bias=False)

        def forward(self, inputs: StageInputs) -> StageOutput:
            z = inputs.pairs.sum(linear(inputs.query, self.query), linear(inputs.item, self.item))
            return StageOutput({self.label: z.squeeze(1).float()})

Letters: R requests · I', C' distinct items and candidates of a batch, rounded up · d width of the vectors · S rows of a
sample. In a graph: n candidates of R requests · N items · L events of a history · w width of attended features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corank.core.errors import PluginError
from corank.core.types import Floats
from corank.features.encoding import Placement
from corank.models.attention import GraphHistory
from corank.models.layers import SnapshotTerm
from corank.models.pairs import RequestPairs, dot_requests
from corank.models.settings.stage import PART_NAME, PARTS, VECTOR, StageSettings
from corank.models.stage_io import StageInputs, StageOutput, StageVectors

REQUEST_OF = "request_of"
"""The query row of each candidate: (n,) int64, ascending."""
EVENTS = ("event", "mask", "ages")
"""What is attended to, as `GraphHistory` has it: event (1, L, w), mask and ages (1, L). R is 1 then."""
REQUEST_TENSORS = ("query", REQUEST_OF, "item", "snapshot", "cross", *EVENTS, "earlier")
"""The tensors of R requests: query (R, ·), item, snapshot and cross (n, ·), what is seen of earlier stages (n, ·)."""
PART = "part."
"""Begins the name by which a graph reads the candidates' rows of an item part: `part.vector` is (n, d)."""
MATCHES = "matches"
"""What matches add to logits, which the scorer counts: (n,)."""


@dataclass(frozen=True)
class Graph:
    """A part of a network to be exported."""

    module: nn.Module
    """Takes its inputs by name, and returns one tensor an output."""
    inputs: tuple[str, ...]
    """Of REQUEST_TENSORS; those that the config has no use for are left out. `PartsGraph` may also read parts and
    matches."""
    outputs: tuple[str, ...]


class RequestGraph(nn.Module):
    """The forward of a stage over R requests → logits (n, labels)."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(
        self,
        query: Tensor,
        request_of: Tensor,
        item: Tensor,
        snapshot: Tensor | None = None,
        cross: Tensor | None = None,
        event: Tensor | None = None,
        mask: Tensor | None = None,
        ages: Tensor | None = None,
        earlier: Tensor | None = None,
    ) -> Tensor:
        """Score the candidates: (n, labels)."""
        count = item.shape[0]
        snapshot = item.new_zeros(count, 0) if snapshot is None else snapshot
        cross = item.new_zeros(count, 0) if cross is None else cross
        history = None
        if event is not None and mask is not None:
            history = GraphHistory(event, mask, ages)
        output: StageOutput = self.stage(
            StageInputs(query, item, snapshot, cross, RequestPairs(request_of), history, earlier)
        )
        return torch.stack(list(output.logits.values()), dim=1)


class QueryGraph(nn.Module):
    """What a stage computes of queries alone: (R, ·) → (R, d)."""

    def __init__(self, stage: nn.Module, compute: Callable[[Tensor], Tensor]) -> None:
        """`compute` is a method of `stage`, which holds the weights."""
        super().__init__()
        self.stage, self._compute = stage, compute

    def forward(self, query: Tensor) -> Tensor:
        """(R, ·) → (R, d)."""
        return self._compute(query)


class ItemGraph(nn.Module):
    """What a stage computes of items alone, rows and snapshots: (N, ·), (N, ·) → (N, d), or several such."""

    def __init__(
        self, stage: nn.Module, compute: Callable[[Tensor, Tensor | None], Tensor | tuple[Tensor, ...]]
    ) -> None:
        """`compute` is a method of `stage`, which holds the weights."""
        super().__init__()
        self.stage, self._compute = stage, compute

    def forward(self, item: Tensor, snapshot: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """(N, ·), (N, ·) → (N, d), one for each part."""
        return self._compute(item, snapshot)


class PartsGraph(nn.Module):
    """What a stage computes of R requests' candidates from their item parts → logits (n, labels)."""

    def __init__(self, stage: nn.Module, compute: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        """`compute` is a method of `stage`, which holds the weights."""
        super().__init__()
        self.stage, self._compute = stage, compute

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """The queries (R, ·), `request_of` (n,), parts (n, ·), what else the graph names → (n, labels)."""
        return self._compute(given)


class StageModel(nn.Module, ABC):
    """The network of a stage."""

    @abstractmethod
    def forward(self, inputs: StageInputs) -> StageOutput:
        """Score all candidates; by label (C',) logits in fp32, rows beyond the candidates are cut off later."""

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs that serving runs, by the name that they add to the stage's; the item parts come from `item`."""
        return {"": Graph(RequestGraph(self), REQUEST_TENSORS, ("logits",))}

    def constants(self) -> Mapping[str, float]:
        """Numbers that the scorer needs besides the graphs."""
        return {}

    def fit_numbers(self, sample: Callable[[Placement], Floats]) -> None:
        """Learn from numbers of training rows before the first step, such as bins; weights taken over replace that.

        Args:
            sample: placement → its scaled numbers in a sample of training rows: (S, numbers). A collective, so that
                all ranks must ask for the same.
        """


class VectorModel(StageModel):
    """A network whose logit is scale · ⟨query vector, item vector⟩ + bias, of one label.

    `snapshot` adds to the vector what changes of an item with time, so that the rest is computed once an item.
    A term of the item alone is a component of its vector that the query answers with 1, and the other way round:
    q' = [q, b_query, 1], v' = [v, 1, b_item].
    """

    label: str
    snapshot: SnapshotTerm | None
    """What snapshot features add to item vectors. A subclass sets it, or it does not read them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_module("snapshot", None)

    @abstractmethod
    def query_vectors(self, query: Tensor) -> Tensor:
        """The vectors of queries: (R, ·) → (R, d)."""

    @abstractmethod
    def item_vectors(self, item: Tensor) -> Tensor:
        """The vectors of items: (I', ·) → (I', d)."""

    def logit_scale(self) -> Tensor:
        """The factor of the product, positive, so that products order as logits do: ()."""
        return torch.tensor(1.0)

    def logit_bias(self) -> Tensor:
        """What is added to the product: ()."""
        return torch.tensor(0.0)

    def forward(self, inputs: StageInputs) -> StageOutput:
        """Score all candidates: logits (C,), and the vectors that they are made of."""
        return self.meet(inputs, self.query_vectors(inputs.query), self.item_vectors(inputs.item))

    def meet(self, inputs: StageInputs, query: Tensor, item: Tensor) -> StageOutput:
        """Score candidates by the vectors of queries (R, d) and items (I', d)."""
        scale, bias = self.logit_scale(), self.logit_bias()
        dot, items = inputs.pairs.dot(query, item), lambda: item
        if (snapshot := self.snapshot) is not None:
            hidden = snapshot.hidden(inputs.snapshot)
            own = inputs.pairs.dot_own(snapshot.queries(query), hidden)
            dot, items = dot + own, lambda: item + snapshot.vectors(inputs.pairs.earliest(hidden))
        logits = scale * dot + bias
        return StageOutput({self.label: logits}, StageVectors(query, items, scale, bias))

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs of queries and of items."""
        return {
            "query": Graph(QueryGraph(self, self.query_vectors), ("query",), (VECTOR,)),
            "item": Graph(ItemGraph(self, self.record_vectors), ("item", "snapshot"), (VECTOR,)),
            "value": Graph(
                PartsGraph(self, self.score_parts), ("query", REQUEST_OF, PART + VECTOR), ("logits",)
            ),
        }

    def score_parts(self, given: Mapping[str, Tensor]) -> Tensor:
        """Score candidates from the queries (R, ·) and item vectors (n, d): (n, 1)."""
        query = self.query_vectors(given["query"])
        return self.meet_vectors(query, given[PART + VECTOR], given[REQUEST_OF]).unsqueeze(1)

    def meet_vectors(self, query: Tensor, vectors: Tensor, request_of: Tensor) -> Tensor:
        """Score item vectors, snapshots within, by those of their queries: (R, d), (n, d), (n,) → (n,)."""
        return dot_requests(self.logit_scale() * query, vectors, request_of) + self.logit_bias()

    def record_vectors(self, item: Tensor, snapshot: Tensor | None) -> Tensor:
        """The vectors of items at a snapshot: (N, ·), (N, ·) → (N, d)."""
        vectors = self.item_vectors(item)
        if self.snapshot is None or snapshot is None:
            return vectors
        return vectors + self.snapshot.vectors(self.snapshot.hidden(snapshot))

    def constants(self) -> Mapping[str, float]:
        """Scale and bias of the product."""
        return {"scale": self.logit_scale().item(), "bias": self.logit_bias().item()}


def check_graphs(settings: StageSettings, network: StageModel, what: str) -> None:
    """Raise PluginError, which begins with `what`, if a network's graphs are not those that its settings declare."""
    graphs = network.graphs()
    if odd := [name for name in settings.item_parts if not PART_NAME.fullmatch(name)]:
        raise PluginError(f"{what}: the name of an item part is letters, digits and _; received {odd[0]!r}")
    ahead = graphs["item"].outputs if "item" in graphs else ()
    if ahead != tuple(settings.item_parts):
        raise PluginError(
            f"{what}: its settings name the item parts {list(settings.item_parts)}, and the graph `item` of "
            f"{type(network).__name__} gives {list(ahead)}; `item_parts` must be the outputs of that graph"
        )
    if settings.scorer == PARTS and not (ahead and "value" in graphs):
        raise PluginError(
            f"{what}: its scorer is '{PARTS}', which runs the graphs `item` and `value`, and "
            f"{type(network).__name__} has {', '.join(graphs)}; give them, or name another scorer"
        )
