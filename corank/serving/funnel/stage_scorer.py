"""Online scorers: how a stage's candidates are scored without torch, and how to add a way.

A stage's facts in the bundle name its scorer. `parts` runs a graph over what was computed of items ahead, `graph` a
whole graph, `vectors` takes a product with item vectors; a plug-in registers its own with `SCORERS.register`, and its
stage model names it (`StageSettings.scorer`).

Letters: R requests · n candidates of all of them · E events of a history of all of them.
"""

import inspect
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime

from corank.bundle.graph_files import Shape, Shapes, open_session
from corank.bundle.stage_facts import StageFacts
from corank.core.errors import PluginError
from corank.core.ordering import Formula
from corank.core.ragged import Rows
from corank.core.registry import Registry
from corank.core.types import Floats, Longs, Numbers
from corank.features.encoders import split_record
from corank.features.input_layout import Layout, TableSet, dense_input, embed_rows, event_groups, event_width
from corank.serving.funnel.query_encoder import AttendedEvents
from corank.serving.funnel.request_encoder import EncodedBatch

COLUMN, PART, MATCHES, REQUEST_OF = "column.", "part.", "matches", "request_of"
"""What a graph calls one of the data's columns, the rows of an item part, what matches add to logits, and the query row
of each candidate."""
Shared = dict[str, Any]
"""What the stages of one batch share: the dense input of queries by set of tables, `query.TABLES`, (R, ·); what later
stages see of earlier ones, `STAGE.score` and `STAGE.rank`, of all candidates, NaN of those that a stage never saw."""


class Candidates:
    """The candidates of R requests that a stage is to score, those of one request after those of another."""

    def __init__(
        self, batch: EncodedBatch, alive: Longs, shared: Shared, options: onnxruntime.RunOptions | None = None
    ) -> None:
        """
        Args:
            batch: the requests.
            alive: indices of the candidates among all of the requests: (n,).
            shared: what stages share.
            options: let a deadline stop a running graph.
        """
        self.batch, self.alive, self.shared, self.options = batch, alive, shared, options
        self.rows: Longs = batch.positions.take(alive)
        """Where each is among the items: (n,)."""
        several = len(batch.requests) > 1
        self.request_of: Longs = batch.request_of.take(alive) if several else batch.request_of[: len(alive)]
        """The request of each, as an index of `batch.requests`, ascending: (n,)."""

    @cached_property
    def bounds(self) -> Longs:
        """Where those of each request begin, and the end: (R + 1,)."""
        return np.searchsorted(self.request_of, np.arange(len(self.batch.requests) + 1))

    def split(self, most: int) -> Iterator[tuple["Candidates", int, int]]:
        """Split into those of some requests each: `most` in all, or those of one request that has more.

        Yields them, and the first request and the end.
        """
        requests = len(self.batch.requests)
        if len(self.alive) <= most or requests == 1:
            yield self, 0, requests
            return
        bounds, first = self.bounds.tolist(), 0
        while first < requests:
            end = max(first + 1, bisect_right(bounds, bounds[first] + most) - 1)
            alive = self.alive[bounds[first] : bounds[end]]
            if len(alive):
                yield Candidates(self.batch, alive, self.shared, self.options), first, end
            first = end

    @cached_property
    def records(self) -> tuple[Rows, ...]:
        """The rows of their items, and of snapshots of these: (n), (n)."""
        return split_record(self.batch.encoder.schema, self.batch.items.rows(self.rows))


Reader = Callable[[Candidates], Any]
"""Gives an input of a graph."""


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
        self.stage, self.folder, self.layout, self.tables = stage, folder, layout, tables
        self.value: Formula = stage.ordering(columns)
        self._columns = [name for name in self.value.names if name not in stage.labels]
        self._query, attended = f"query.{stage.tables}", stage.attended
        self._events = event_groups(layout, attended.history, attended.features) if attended else ()
        self._event_vectors = layout.vectors_of("item", attended.features) if attended else ()

    def query(self, rows: Rows, shared: Shared) -> Floats:
        """The dense input of queries, computed once for the stages that share tables: (R, ·)."""
        if self._query not in shared:
            shared[self._query] = dense_input(rows, self.layout, "query", self.tables)
        inputs: Floats = shared[self._query]
        return inputs

    @property
    def shapes(self) -> Shapes:
        """The shape of every input that is not of item parts, by the name that a graph has for it."""
        layout, stage = self.layout, self.stage
        shapes: dict[str, Shape] = {"query": (None, layout.width("query")), REQUEST_OF: ("int64", None)}
        shapes |= {placement: (None, width) for placement, width in layout.record_widths.items()}
        if layout.width("cross"):
            shapes["cross"] = (None, layout.width("cross"))
        if stage.attended:
            width = event_width(layout, stage.attended.history, stage.attended.features)
            shapes |= {"event": (1, None, width), "mask": (1, None)}
            shapes |= {"ages": (1, None)} if stage.attended.ages else {}
        if stage.from_stages:
            shapes["earlier"] = (None, len(stage.from_stages))
        return shapes | {COLUMN + name: (None,) for name in self._columns}

    @property
    def value_shape(self) -> Shape:
        """The shape of the value that a graph gives: float32 of a single probability, else float64."""
        return (None,) if self.value.single else ("double", None)

    def reader(self, name: str) -> Reader:
        """What gives the input that a graph calls by a name."""
        layout, tables, stage = self.layout, self.tables, self.stage
        if name.startswith(PART):
            part = f"{stage.name}.{name.removeprefix(PART)}"
            return lambda c: c.batch.items.part(part, c.rows)
        if name.startswith(COLUMN):
            column = name.removeprefix(COLUMN)
            return lambda c: c.batch.column(column, c.alive)
        readers: dict[str, Reader] = {
            "query": lambda c: self.query(c.batch.query, c.shared),
            REQUEST_OF: lambda c: np.zeros_like(c.request_of) if stage.attended else c.request_of,
            "item": lambda c: dense_input(c.records[0], layout, "item", tables),
            "snapshot": lambda c: dense_input(c.records[1], layout, "snapshot", tables),
            "cross": lambda c: dense_input(c.batch.encoder.cross(c.batch, c.alive), layout, "cross", tables),
            "event": lambda c: embed_rows(self.attended(c).rows, self._events, self._event_vectors, tables),
            "mask": lambda c: np.ones(len(self.attended(c).rows), dtype=np.float32),
            "ages": lambda c: self.attended(c).ages,
            "earlier": lambda c: np.stack(
                [c.shared[f"{name}.{what}"][c.alive] for name, what in stage.from_stages], axis=1
            ),
        }
        return readers[name]

    def attended(self, candidates: Candidates) -> AttendedEvents:
        """The events that the stage attends to: (E)."""
        assert self.stage.attended is not None
        return candidates.batch.events[self.stage.attended.history]


class StageScorer(ABC):
    """Scores candidates for one stage of one model version. Threads share it, so it keeps no state of a request."""

    one_request: ClassVar[bool] = False
    """Whether candidates must be of one request; a bundle with such a stage ranks one request at a time."""

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
