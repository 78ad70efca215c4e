"""The online scorers that corank comes with, and the scorers of all stages of a bundle.

`vectors`: logit = scale · ⟨query vector, item vector⟩ + bias, and what matches of query and item add. It serves stage
models of plug-ins that have vectors and no graph `value`. `parts`: one graph over what was computed of items ahead, the
query, and what belongs to the pair. `graph`: the whole forward of a stage, run for every candidate. The graphs of both
include calibration and formula.

Letters: R requests · n candidates of all of them · N items · d width of an item part, or of vectors.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from corank.bundle.content import ItemGraphs, read_tables, store_parts
from corank.bundle.graph_files import Shapes
from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import StageFacts
from corank.core.calibration import Platt
from corank.core.errors import BundleError, PluginError, RequestError
from corank.core.ordering import soft_ranks, stage_value
from corank.core.ragged import Rows
from corank.core.registry import plugin_hint
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats, Numbers
from corank.features.input_layout import Layout
from corank.serving.funnel.stage_scorer import (
    MATCHES,
    PART,
    REQUEST_OF,
    SCORERS,
    Candidates,
    Reader,
    ScorerInputs,
    Shared,
    StageScorer,
    open_graph,
)


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


class QueryVectors:
    """The graph that gives the vectors of queries."""

    def __init__(self, inputs: ScorerInputs) -> None:
        """Open it. Raises BundleError."""
        self._inputs, name = inputs, inputs.stage.name
        shapes, outputs = {"query": inputs.shapes["query"]}, [(None, inputs.stage.vector_width)]
        self._session = open_graph(inputs.folder / f"{name}.query.onnx", shapes, outputs)

    def compute(self, rows: Rows, shared: Shared) -> Floats:
        """The vectors of queries: (R, d)."""
        vectors: Floats = self._session.run(None, {"query": self._inputs.query(rows, shared)})[0]
        return vectors


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
        self._part, self._query = stage.vector_part, QueryVectors(inputs)
        self._scale, self._bias = (np.float32(stage.constants[name]) for name in ("scale", "bias"))
        self._matches = MatchTerms(inputs) if stage.matches else None

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        batch = candidates.batch
        query = self._query.compute(batch.query, candidates.shared).take(candidates.request_of, axis=0)
        # each row by itself, so that a score does not depend on where it is, or on others
        products = np.einsum("nd,nd->n", batch.items.part(self._part, candidates.rows), query)
        logits: Floats = self._scale * products + self._bias
        if self._matches is not None:
            logits += self._matches.read(candidates)
        return logits[:, None]


class Scorer:
    """The stages of one model version. Safe to share between threads."""

    def __init__(self, folder: Path, manifest: BundleManifest, layout: Layout) -> None:
        """Open the graphs and tables of a bundle's content. Raises BundleError, DataError."""
        self.folder, self.layout = folder, layout
        self.tables = read_tables(folder, manifest, layout)
        self.stages: dict[str, StageScorer] = {}
        self._manifest, self._columns = manifest, manifest.data.columns
        self._inputs: dict[str, ScorerInputs] = {}
        self._queries: dict[str, QueryVectors] = {}
        for stage in manifest.stages:
            inputs = ScorerInputs(stage, folder, layout, self.tables[stage.tables], self._columns)
            try:
                self.stages[stage.name] = SCORERS.find(stage.scorer)(inputs)
            except PluginError as error:
                hint = plugin_hint(manifest.plugins) or "export the bundle again"
                raise BundleError(f"{folder}: stage '{stage.name}': {error}; {hint}") from None
            self._inputs[stage.name] = inputs
            if stage.orders_by_product:
                self._queries[stage.name] = QueryVectors(inputs)
        self._items = ItemGraphs(folder, manifest.stages, layout, self.tables, threads=1)
        self.calibrators = {
            stage.name: {label: Platt(c.slope, c.intercept) for label, c in stage.calibrators.items()}
            for stage in manifest.stages
        }
        self._seen = {f"{name}.{what}" for stage in manifest.stages for name, what in stage.from_stages}

    def parts(self, rows: Rows) -> dict[str, StoredMatrix]:
        """What stages keep of the records of items: (N, d) by `STAGE.PART`. Raises DataError."""
        return store_parts(self._items.compute(rows), self._manifest.stages)

    def query_vectors(self, stage: str, rows: Rows) -> Floats:
        """The vectors of queries, of a stage that orders by product: (R, d)."""
        return self._queries[stage].compute(rows, {})

    @property
    def one_request(self) -> bool:
        """Whether some stage can score the candidates of one request at a time alone."""
        return any(scorer.one_request for scorer in self.stages.values())

    @property
    def named(self) -> set[str]:
        """The labels and columns that the values of stages name."""
        return {name for inputs in self._inputs.values() for name in inputs.value.names}

    def evaluate(self, stage: StageFacts, candidates: Candidates) -> tuple[dict[str, Floats], Numbers]:
        """Score candidates; what later stages see of it goes into what the stages share.

        Returns:
            The logits by label, (n,) each, and the values that the stage orders by: (n,).
        """
        if len(candidates.alive):
            scores, value = self.stages[stage.name].evaluate(candidates)
        else:
            scores, value = np.empty((0, len(stage.labels)), dtype=np.float32), np.empty(0)
        logits = {label: scores[:, n] for n, label in enumerate(stage.labels)}
        if value is None:
            formula = self._inputs[stage.name].value
            columns = {
                name: candidates.batch.column(name, candidates.alive)
                for name in formula.names
                if name in self._columns
            }
            value = stage_value(formula, logits, self.calibrators[stage.name], columns)
        if self._seen:
            self._share(stage, logits[stage.main], candidates)
        return logits, value

    def _share(self, stage: StageFacts, logits: Floats, candidates: Candidates) -> None:
        """Keep what later stages see of a stage."""
        shared, alive = candidates.shared, candidates.alive
        if f"{stage.name}.score" in self._seen:
            shared[f"{stage.name}.score"] = np.full(len(candidates.batch.positions), np.nan, dtype=np.float32)
            shared[f"{stage.name}.score"][alive] = logits
        if f"{stage.name}.rank" in self._seen:  # of the first stage, which scores all candidates
            bounds, ranks = candidates.bounds.tolist(), np.empty(len(alive), dtype=np.float32)
            for a, b in pairwise(bounds):  # each request's by themselves, to the last bit
                ranks[a:b] = soft_ranks(logits[a:b], np.array([0, b - a]))
            shared[f"{stage.name}.rank"] = np.full(len(candidates.batch.positions), np.nan, dtype=np.float32)
            shared[f"{stage.name}.rank"][alive] = ranks


def refuse_odd(stage: StageFacts, value: Numbers, candidates: Candidates) -> Numbers:
    """The values by which a stage orders. Raises RequestError if one is not finite."""
    # a sum of squares is faster than a plain sum; as it may overflow, each value is checked then
    if math.isfinite(np.dot(value, value)):
        return value
    odd = np.flatnonzero(~np.isfinite(value))
    if len(odd):
        batch, at = candidates.batch, int(candidates.alive[odd[0]])
        r = int(batch.request_of[at])
        raise RequestError(
            f"stage '{stage.name}': the value of {batch.requests[r].candidates[at - batch.start[r]]!r} is "
            f"{value[odd[0]]}; look for extreme numbers in the request"
        )
    return value


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
        """The inputs of each run, whose memory should fit into a core's cache."""
        if self.inputs.stage.attended is not None:
            # one run a request: what attention makes of all its events and candidates just fits
            feeds = self._read(candidates)
            yield from _split(feeds, candidates.bounds.tolist(), self.inputs.attended(candidates).lengths)
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
