"""The online scorers that corank comes with, and the scorers of all stages of a bundle.

`vectors`: logit = scale · ⟨query vector, item vector⟩ + bias, and what matches of query and item add. It serves stage
models of plug-ins that have vectors and no graph `value`. `parts`: one graph over what was computed of items ahead, the
query, and what belongs to the pair. `graph`: the whole forward of a stage, run for every candidate. The graphs of both
include calibration and formula.

Letters: n candidates · N items · d width of an item part, or of vectors.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path

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
from corank.data.packed.derived_columns import derive_features
from corank.features.input_layout import Layout
from corank.features.operands import OperandRows
from corank.serving.funnel.stage_scorer import (
    SCORERS,
    Candidates,
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
            if name not in crosses or not (crosses[name].compares or crosses[name].compares_candidates):
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
        self._operands = {operand for name in stage.matches for operand in crosses[name].operands}
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
        encoder, request, count = candidates.encoder, candidates.request, len(candidates.alive)
        items = request.items.operands(candidates.rows, self._operands)
        of_request = np.zeros(count, dtype=np.int64)
        sides = OperandRows.pairs(encoder.schema, request.operands, items, of_request, None)
        times = np.full(count, request.time)
        names = self._worth.keys() - request.crosses.keys()
        values = derive_features(encoder.schema, "cross", sides, encoder.priors, times, names)
        columns = {
            n: column[candidates.alive]
            for n, column in request.crosses.items()
            if isinstance(column, np.ndarray)
        }
        columns |= {name: encoder.encoders.encode_derived(name, value) for name, value in values.items()}
        added = np.zeros(count, dtype=np.float32)
        for name, worth in self._worth.items():
            column = columns[name]
            added += worth[column] if column.dtype == np.int32 else worth * column
        return added


class QueryVectors:
    """The graph that gives the vector of a query."""

    def __init__(self, inputs: ScorerInputs) -> None:
        """Open it. Raises BundleError."""
        self._inputs, name = inputs, inputs.stage.name
        shapes = {"query": inputs.request_shapes["query"]}
        outputs = [(1, inputs.stage.vector_width)]
        self._session = open_graph(inputs.folder / f"{name}.query.onnx", shapes, outputs)

    def vector(self, row: Rows, shared: Shared) -> Floats:
        """The vector of a query: (d,)."""
        vector: Floats = self._session.run(None, {"query": self._inputs.query(row, shared)})[0][0]
        return vector


@SCORERS.register("vectors")
class VectorsScorer(StageScorer):
    """Runs the graph of queries once a request, and a dot product a candidate."""

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
        request = candidates.request
        query = self._query.vector(request.query, candidates.shared)
        logits = self._scale * (request.items.part(self._part, candidates.rows) @ query) + self._bias
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

    def query_vector(self, stage: str, row: Rows, shared: Shared) -> Floats:
        """The vector of a query, of a stage that orders by product: (d,)."""
        return self._queries[stage].vector(row, shared)

    @property
    def named(self) -> set[str]:
        """The labels and columns that the values of stages name."""
        return {name for inputs in self._inputs.values() for name in inputs.value.names}

    def evaluate(self, stage: StageFacts, candidates: Candidates) -> tuple[dict[str, Floats], Numbers]:
        """Score candidates; what later stages see of it goes into what the stages share.

        Returns:
            The logits by label, (n,) each, and the values that the stage orders by: (n,).
        """
        scores, value = self.stages[stage.name].evaluate(candidates)
        logits = {label: scores[:, n] for n, label in enumerate(stage.labels)}
        if value is None:
            formula = self._inputs[stage.name].value
            columns = {
                name: candidates.request.column(name, candidates.alive)
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
            shared[f"{stage.name}.score"] = np.full(len(candidates.request.ids), np.nan, dtype=np.float32)
            shared[f"{stage.name}.score"][alive] = logits
        if f"{stage.name}.rank" in self._seen:  # of the first stage, which scores all candidates
            shared[f"{stage.name}.rank"] = soft_ranks(logits, np.array([0, len(alive)]))


def refuse_odd(stage: StageFacts, value: Numbers, candidates: Candidates) -> Numbers:
    """The values by which a stage orders. Raises RequestError if one is not finite."""
    # a sum of squares is faster than a plain sum; as it may overflow, each value is checked then
    if math.isfinite(np.dot(value, value)):
        return value
    odd = np.flatnonzero(~np.isfinite(value))
    if len(odd):
        raise RequestError(
            f"stage '{stage.name}': the value of {candidates.request.ids[candidates.alive[odd[0]]]!r} is "
            f"{value[odd[0]]}; look for extreme numbers in the request"
        )
    return value


PART, MATCHES = "part.", "matches"
"""What a graph calls the rows of an item part, and what matches add to logits."""


class _ValueGraph(StageScorer):
    """Runs the graph `value`, calibration and formula included."""

    def _open(self, inputs: ScorerInputs, shapes: Shapes, optional: Collection[str] = ()) -> None:
        """Open the graph, whose inputs have some shapes, and the columns that the value names."""
        self.inputs = inputs
        self.session = open_graph(
            inputs.folder / f"{inputs.stage.name}.value.onnx",
            {**shapes, **inputs.column_shapes},
            [(None, len(inputs.stage.labels)), inputs.value_shape],
            optional,
        )

    @abstractmethod
    def _feeds(self, candidates: Candidates) -> Mapping[str, Numbers]:
        """The inputs, but for columns."""

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        return self.evaluate(candidates)[0]

    def evaluate(self, candidates: Candidates) -> tuple[Floats, Numbers]:
        """As `StageScorer.evaluate`."""
        feeds = {**self._feeds(candidates), **self.inputs.columns(candidates)}
        logits, value = self.session.run(None, feeds, candidates.options)
        return logits, value


@SCORERS.register("parts")
class PartsScorer(_ValueGraph):
    """Takes the candidates' rows of the item parts, the query, and what belongs to the pair."""

    def __init__(self, inputs: ScorerInputs) -> None:
        stage = inputs.stage
        if not stage.item_parts:
            raise BundleError(
                f"{inputs.folder}: stage '{stage.name}': its facts name no item parts, which the scorer "
                f"'{stage.scorer}' needs; export the bundle again"
            )
        shapes: Shapes = {PART + part: (None, width) for part, width in stage.item_parts.items()}
        matches: Shapes = {MATCHES: (None,)} if stage.matches else {}
        request = inputs.request_shapes
        self._open(inputs, {**request, **shapes, **matches}, request.keys())
        self._parts = [(PART + part, f"{stage.name}.{part}") for part in stage.item_parts]
        self._matches = MatchTerms(inputs) if stage.matches else None
        self._request = request.keys() & {node.name for node in self.session.get_inputs()}

    def _feeds(self, candidates: Candidates) -> Mapping[str, Numbers]:
        items, rows = candidates.request.items, candidates.rows
        feeds: dict[str, Numbers] = {**self.inputs.of_request(candidates, self._request)}
        for name, part in self._parts:
            feeds[name] = items.part(part, rows)
        if self._matches is not None:
            feeds[MATCHES] = self._matches.read(candidates)
        return feeds


@SCORERS.register("graph")
class GraphScorer(_ValueGraph):
    """Takes query, items, pairs, history, what is seen of earlier stages, and columns of the value."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self._open(inputs, inputs.shapes)

    def _feeds(self, candidates: Candidates) -> Mapping[str, Numbers]:
        return self.inputs.all(candidates)
