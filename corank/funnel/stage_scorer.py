"""Online scorers: how a stage's candidates are scored without torch, those that corank comes with, and how to add one.

A stage's facts in the bundle name its scorer; a plug-in registers its own with `SCORERS.register`, and its stage model
names it (`StageSettings.scorer`). `parts`: one graph over what was computed of items ahead, the query, and what belongs
to the pair. `graph`: the whole forward of a stage, run for every candidate. The graphs of both include calibration and
formula. `vectors`: logit = scale · ⟨query vector, item vector⟩ + bias, and what matches of query and item add; for
stage models of plug-ins that have vectors and no graph `value`.

Letters: R requests · n candidates of all of them · E events of a history of all of them · d width of vectors.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime

from corank.bundle.graph_files import Shape, Shapes, open_session
from corank.bundle.stage_facts import StageFacts
from corank.core.errors import BundleError
from corank.core.ordering import Formula
from corank.core.ragged import Rows
from corank.core.registry import Registry, check_class
from corank.core.types import Floats, Longs, Numbers
from corank.features.encoders import split_record
from corank.features.input_layout import Layout, TableSet, dense_input, embed_rows, event_groups, event_width
from corank.funnel.query_encoder import AttendedEvents
from corank.funnel.request_encoder import EncodedBatch

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

    def split(self, most: int) -> list[tuple["Candidates", int, int]]:
        """Split into those of some requests each: `most` in all, or those of one request that has more.

        Returns them, each with the first request and the end.
        """
        requests = len(self.batch.requests)
        if len(self.alive) <= most or requests == 1:
            return [(self, 0, requests)]
        bounds, first, pieces = self.bounds.tolist(), 0, list[tuple[Candidates, int, int]]()
        while first < requests:
            end = max(first + 1, bisect_right(bounds, bounds[first] + most) - 1)
            alive = self.alive[bounds[first] : bounds[end]]
            if len(alive):
                pieces.append((Candidates(self.batch, alive, self.shared, self.options), first, end))
            first = end
        return pieces

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
    check_class(what, part, StageScorer)


SCORERS = Registry[type[StageScorer]]("scorer", "corank.scorers", __name__, _check)
"""Scorers by the name that a stage's facts give."""


AT_ONCE = 4_096
"""Candidates of several requests that a graph is run for, at most."""
OUTPUTS = ["logits", "value"]
OF_EVENTS = {"event", "mask", "ages"}
Feeds = dict[str, Any]
"""The inputs of a graph, by name."""


class _ValueGraph(StageScorer):
    """Runs the graph `value`, calibration and formula included."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs, shapes = inputs, self._shapes(inputs)
        self.session = open_graph(
            inputs.folder / f"{inputs.stage.name}.value.onnx",
            shapes,
            [(None, len(inputs.stage.labels)), inputs.value_shape],
            self._optional(inputs),
        )
        matches = MatchTerms(inputs) if MATCHES in shapes else None
        self._readers: list[tuple[str, Reader]] = [
            (node.name, matches.read if matches and node.name == MATCHES else inputs.reader(node.name))
            for node in self.session.get_inputs()
        ]

    @abstractmethod
    def _shapes(self, inputs: ScorerInputs) -> Shapes:
        """The shapes of the graph's inputs, by name."""

    def _optional(self, inputs: ScorerInputs) -> Collection[str]:
        """The names of inputs that the graph may lack."""
        return ()

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        return self.evaluate(candidates)[0]

    def evaluate(self, candidates: Candidates) -> tuple[Floats, Numbers]:
        """As `StageScorer.evaluate`."""
        outputs = [self.session.run(OUTPUTS, feeds, candidates.options) for feeds in self._feeds(candidates)]
        logits, value = outputs[0] if len(outputs) == 1 else map(np.concatenate, zip(*outputs, strict=True))
        return logits, value

    def _feeds(self, candidates: Candidates) -> Iterator[Feeds]:
        """The inputs of each run, read just before it, whose memory should fit into a core's cache."""
        if self.inputs.stage.attended is not None:
            # one run a request: what attention makes of all its events and candidates just fits
            lengths = self.inputs.attended(candidates).lengths
            yield from _split(self._read(candidates), candidates.bounds.tolist(), lengths)
            return
        for some, first, end in candidates.split(AT_ONCE):
            feeds = self._read(some)
            if "query" in feeds and end - first < len(feeds["query"]):
                feeds["query"] = feeds["query"][first:end]
                feeds[REQUEST_OF] = feeds[REQUEST_OF] - first
            yield feeds

    def _read(self, candidates: Candidates) -> Feeds:
        return {name: read(candidates) for name, read in self._readers}


def _split(feeds: Feeds, bounds: Sequence[int], lengths: Sequence[int]) -> Iterator[Feeds]:
    """The inputs of a graph by request, of which each has some candidates and attends to some events.

    Args:
        feeds: by name what is of candidates (n, …), of events (E, …), or of queries (R, …).
        bounds: where the candidates of each request begin, and the end: (R + 1,).
        lengths: how many events each has: (R,).
    """
    end = 0
    for r, ((a, b), length) in enumerate(zip(pairwise(bounds), lengths, strict=True)):
        first, end = end, end + length
        if a == b:
            continue
        one = {}
        for name, values in feeds.items():
            if name in OF_EVENTS:  # at least one, which does not count
                own = values[first:end] if length else np.zeros((1, *values.shape[1:]), dtype=np.float32)
                one[name] = own[None]
            else:
                one[name] = values[r : r + 1] if name == "query" else values[a:b]
        yield one


@SCORERS.register("parts")
class PartsScorer(_ValueGraph):
    """Takes the candidates' rows of the item parts, the query, and what belongs to the pair."""

    def _shapes(self, inputs: ScorerInputs) -> Shapes:
        stage = inputs.stage
        if not stage.item_parts:
            raise BundleError(
                f"{inputs.folder}: stage '{stage.name}': its facts name no item parts, which the scorer "
                f"'{stage.scorer}' needs; export the bundle again"
            )
        parts: Shapes = {PART + part: (None, width) for part, width in stage.item_parts.items()}
        matches: Shapes = {MATCHES: (None,)} if stage.matches else {}
        return {**inputs.shapes, **parts, **matches}

    def _optional(self, inputs: ScorerInputs) -> Collection[str]:
        return inputs.shapes.keys()


@SCORERS.register("graph")
class GraphScorer(_ValueGraph):
    """Takes query, items, pairs, history, what is seen of earlier stages, and columns of the value."""

    def _shapes(self, inputs: ScorerInputs) -> Shapes:
        return inputs.shapes


class MatchTerms:
    """Counts and encodes the matches of one stage by the code that packing used, and no other cross."""

    def __init__(self, inputs: ScorerInputs) -> None:
        """Raises BundleError if a match is no feature that can be counted, or the facts lack its weights."""
        stage, layout = inputs.stage, inputs.layout
        crosses = layout.schema.derived("cross")
        for name in stage.matches:
            if name not in crosses or not crosses[name].may_match:
                raise BundleError(
                    f"{inputs.folder}: stage '{stage.name}': '{name}' is no match of query and item; "
                    "export the bundle again"
                )
        columns = layout.columns("cross", stage.matches)
        if any(f"match_{n}" not in stage.constants for n in range(len(columns))):
            raise BundleError(
                f"{inputs.folder}: stage '{stage.name}': its facts lack the weights of matches; export the bundle again"
            )
        weight = np.array([stage.constants[f"match_{n}"] for n in range(len(columns))], dtype=np.float32)
        self._worth: dict[str, Floats] = {}
        """What a number counts, (1,), or what each code of buckets adds, (codes,)."""
        for name in stage.matches:
            own = weight[np.isin(columns, layout.columns("cross", [name]))]
            if crosses[name].storage == "id":
                first = layout.offset[name]
                own = inputs.tables[crosses[name].width][first : first + layout.sizes[name]] @ own
            self._worth[name] = own

    def read(self, candidates: Candidates) -> Floats:
        """What is added to logits: (n,)."""
        batch, alive = candidates.batch, candidates.alive
        columns = batch.encoder.derive(batch, alive, frozenset(self._worth.keys() - batch.crosses.keys()))
        columns |= {n: column[alive] for n, column in batch.crosses.items() if isinstance(column, np.ndarray)}
        added = np.zeros(len(alive), dtype=np.float32)
        for name, worth in self._worth.items():
            column = columns[name]
            added += worth[column] if column.dtype == np.int32 else worth * column
        return added


def open_query_vectors(inputs: ScorerInputs) -> Callable[[Rows, Shared], Floats]:
    """Open the graph that gives the vectors of R queries, (R, d), from their rows. Raises BundleError."""
    shapes, outputs = {"query": inputs.shapes["query"]}, [(None, inputs.stage.vector_width)]
    session = open_graph(inputs.folder / f"{inputs.stage.name}.query.onnx", shapes, outputs)

    def compute(rows: Rows, shared: Shared) -> Floats:
        vectors: Floats = session.run(None, {"query": inputs.query(rows, shared)})[0]
        return vectors

    return compute


@SCORERS.register("vectors")
class VectorsScorer(StageScorer):
    """Runs the graph of queries once, and a dot product a candidate."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs, stage = inputs, inputs.stage
        if stage.vector_part is None or not {"scale", "bias"} <= set(stage.constants):
            raise BundleError(
                f"{inputs.folder}: stage '{stage.name}': its facts lack the width of vectors, scale or bias; "
                "export the bundle again"
            )
        self._part, self._query = stage.vector_part, open_query_vectors(inputs)
        self._scale, self._bias = (np.float32(stage.constants[name]) for name in ("scale", "bias"))
        self._matches = MatchTerms(inputs) if stage.matches else None

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        batch = candidates.batch
        query = self._query(batch.query, candidates.shared).take(candidates.request_of, axis=0)
        # each row by itself, so that a score does not depend on where it is, or on others
        products = np.einsum("nd,nd->n", batch.items.part(self._part, candidates.rows), query)
        logits: Floats = self._scale * products + self._bias
        if self._matches is not None:
            logits += self._matches.read(candidates)
        return logits[:, None]
