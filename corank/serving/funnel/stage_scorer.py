"""Online scorers: how a stage's candidates are scored without torch, and how to add a way.

A stage's facts in the bundle name its scorer. `parts` runs a graph over what was computed of items ahead, `graph` a
whole graph, `vectors` takes a product with item vectors; a plug-in registers its own with `SCORERS.register`, and its
stage model names it (`StageSettings.scorer`).

Letters: n candidates · N rows · L events of a history.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from corank.bundle.content import record_inputs
from corank.bundle.graph_files import Shape, Shapes, open_session
from corank.bundle.stage_facts import Attention, StageFacts
from corank.core.errors import PluginError
from corank.core.ordering import Formula
from corank.core.ragged import Rows
from corank.core.registry import Registry
from corank.core.types import Floats, Longs, Numbers
from corank.features.input_layout import Layout, TableSet, dense_input, embed_rows, event_groups, event_width
from corank.serving.funnel.request_encoder import EncodedRequest, RequestEncoder

COLUMN = "column."
"""Begins the name by which a graph reads one of the data's columns."""
Shared = dict[str, Floats]
"""What the stages of one request share: the query's dense input by set of tables, `query.TABLES`, (1, ·); what later
stages see of earlier ones, `STAGE.score` and `STAGE.rank`, of all candidates, NaN of those that a stage never saw."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of a request that a stage is to score."""

    encoder: RequestEncoder
    request: EncodedRequest
    alive: Longs
    """Their indices among all candidates of the request: (n,)."""
    shared: Shared
    options: onnxruntime.RunOptions | None = None
    """Lets a deadline stop a running graph."""

    @property
    def rows(self) -> Longs:
        """Where each is among the items: (n,)."""
        return self.request.positions.take(self.alive)


class ScorerInputs:
    """The inputs of one stage's graphs, gathered from the bundle's tables."""

    def __init__(
        self, stage: StageFacts, folder: Path, layout: Layout, tables: TableSet, columns: Collection[str] = ()
    ) -> None:
        """
        Args:
            stage: its facts.
            folder: the content of the bundle.
            layout: of dense inputs.
            tables: those that the stage reads.
            columns: the data's, which the stage's value may name.
        """
        self.stage, self.folder, self.layout = stage, folder, layout
        self.tables = tables
        self.value: Formula = stage.ordering(columns)
        self._columns = {COLUMN + name: name for name in self.value.names if name not in stage.labels}
        self._reads_cross = layout.width("cross") > 0
        attended = stage.attended
        self._events = event_groups(layout, attended.history, attended.features) if attended else ()
        self._event_vectors = layout.vectors_of("item", attended.features) if attended else ()

    def query(self, row: Rows, shared: Shared) -> Floats:
        """The query's dense input, computed once for the stages that share tables: (1, ·)."""
        name = f"query.{self.stage.tables}"
        if name not in shared:
            shared[name] = dense_input(row, self.layout, "query", self.tables)
        return shared[name]

    @property
    def shapes(self) -> Shapes:
        """The shape of every input of a whole graph, by name."""
        record: Shapes = {placement: (None, width) for placement, width in self.layout.record_widths.items()}
        return {**record, **self.request_shapes}

    @property
    def request_shapes(self) -> Shapes:
        """The shape of every input of a whole graph that is not of item records, by name."""
        shapes: dict[str, tuple[int | None, ...]] = {"query": (1, self.layout.width("query"))}
        if self._reads_cross:
            shapes["cross"] = (None, self.layout.width("cross"))
        if self.stage.attended:
            attended = self.stage.attended
            width = event_width(self.layout, attended.history, attended.features)
            shapes |= {"event": (None, width), "mask": (None,)} | ({"ages": (None,)} if attended.ages else {})
        if self.stage.from_stages:
            shapes["earlier"] = (None, len(self.stage.from_stages))
        return shapes

    @property
    def column_shapes(self) -> Shapes:
        """The shape of every column that the stage's value names, by the name that a graph has for it."""
        return dict.fromkeys(self._columns, (None,))

    @property
    def value_shape(self) -> Shape:
        """The shape of the value that a graph gives: float32 of a single probability, else float64."""
        return (None,) if self.value.single else ("double", None)

    def columns(self, candidates: Candidates) -> dict[str, Numbers]:
        """The columns that the stage's value names, by the name that a graph has for them: (n,) each."""
        return {name: candidates.request.column(c, candidates.alive) for name, c in self._columns.items()}

    def all(self, candidates: Candidates) -> dict[str, Floats]:
        """Every input that the stage reads, by the name that a whole graph has for it."""
        rows = candidates.request.items.rows(candidates.rows)
        return record_inputs(self.layout, rows, self.tables) | self.of_request(candidates)

    def of_request(self, candidates: Candidates, names: Collection[str] | None = None) -> dict[str, Floats]:
        """Every input that is not of item records, by the name that a graph has for it; those of some names, or all."""
        request, alive, stage = candidates.request, candidates.alive, self.stage
        inputs = {"query": self.query(request.query, candidates.shared)}
        if self._reads_cross and (names is None or "cross" in names):
            cross = candidates.encoder.cross(request, alive)
            inputs["cross"] = dense_input(cross, self.layout, "cross", self.tables)
        if stage.attended:
            inputs |= self._read_events(request, stage.attended)
        if stage.from_stages:
            columns = [candidates.shared[f"{name}.{what}"][alive] for name, what in stage.from_stages]
            inputs["earlier"] = np.stack(columns, axis=1)
        return inputs

    def _read_events(self, request: EncodedRequest, attended: Attention) -> dict[str, Floats]:
        """What the stage attends to: (L, ·), and (L,) each; L is 1 at least, since a graph needs one."""
        event = embed_rows(
            request.histories[attended.history], self._events, self._event_vectors, self.tables
        )
        inputs = {"event": event, "mask": np.ones(len(event), dtype=np.float32)}
        inputs |= {"ages": request.ages[attended.history]} if attended.ages else {}
        if len(event):
            return inputs
        return {name: np.zeros((1, *x.shape[1:]), dtype=np.float32) for name, x in inputs.items()}


class StageScorer(ABC):
    """Scores candidates for one stage of one model version. Threads share it, so it keeps no state of a request."""

    @abstractmethod
    def __init__(self, inputs: ScorerInputs) -> None:
        """Open the stage's graphs. Raises BundleError if one is not there or not readable."""

    @abstractmethod
    def score(self, candidates: Candidates) -> Floats:
        """The logits of the candidates, in the order of the stage's labels: (n, labels)."""

    def evaluate(self, candidates: Candidates) -> tuple[Floats, Numbers | None]:
        """The logits, (n, labels), and the values that the stage orders by, (n,); None if they follow from these."""
        return self.score(candidates), None


def open_graph(
    path: Path,
    inputs: Shapes | None = None,
    outputs: Sequence[Shape] | None = None,
    optional: Collection[str] = (),
) -> onnxruntime.InferenceSession:
    """Open a graph to be run for requests.

    Args:
        path: the file.
        inputs: by name the shape that each of its inputs must have, None for a size that requests differ in; any if
            None.
        outputs: the shapes of its outputs.
        optional: the names of inputs that it may lack.

    Raises:
        BundleError: the runtime cannot read it, or it has other inputs or outputs.
    """
    # one thread a session: a request is small, and workers take the cores
    return open_session(path, inputs, outputs, 1, optional)


def _check(what: str, part: Any) -> None:
    """Raise PluginError if a part is not a scorer."""
    if not (inspect.isclass(part) and issubclass(part, StageScorer)):
        raise PluginError(f"{what}: expected a subclass of StageScorer; received {part!r}")
    missing = sorted(part.__abstractmethods__)
    if missing:
        raise PluginError(f"{what}: {part.__name__} must define {', '.join(missing)}")


SCORERS = Registry[type[StageScorer]]("scorer", "corank.scorers", "corank.serving.funnel.scorer", _check)
"""Scorers by the name that a stage's facts give."""
