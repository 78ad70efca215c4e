"""Scorer `vectors`: logit = scale · ⟨query vector, item vector⟩ + bias, and what matches add.

Letters: n candidates · N items · d width of the vectors.
"""

from typing import ClassVar

import numpy as np

from corank.core.errors import BundleError
from corank.core.ragged import Rows
from corank.core.types import Floats
from corank.data.derived_columns import derive_features
from corank.features.operand_rows import OperandRows
from corank.serving.funnel.stage_scorer import (
    SCORERS,
    Candidates,
    ScorerInputs,
    Shared,
    StageScorer,
    open_graph,
)


@SCORERS.register("vectors")
class VectorsScorer(StageScorer):
    """Runs the graph of queries once a request, and a dot product a candidate.

    A subclass meets otherwise what the graph of queries gives and the vectors of items. Matches add to any of them.
    """

    needed: ClassVar[tuple[str, ...]] = ("scale", "bias")
    """The constants that the facts must have."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs, self.name = inputs, inputs.stage.name
        folder, shapes, width = inputs.folder, inputs.shapes, inputs.stage.vector_width
        if width is None or not set(self.needed) <= set(inputs.stage.constants):
            raise BundleError(
                f"{folder}: stage '{self.name}': its facts lack the width of vectors, {' or '.join(self.needed)}; "
                "export the bundle again"
            )
        self.width = width
        given = {"query": shapes["query"]}
        self._matches = MatchTerms(inputs) if inputs.stage.matches else None
        self._query = open_graph(folder / f"{self.name}.query.onnx", given, [self.query_shape])
        self._item = open_graph(folder / f"{self.name}.item.onnx", inputs.record_shapes, [(None, width)])

    @property
    def query_shape(self) -> tuple[int, int]:
        """The shape of what the graph of queries gives: (1, d)."""
        return 1, self.width

    def count(self, name: str) -> int:
        """A constant that counts something. Raises BundleError unless it is a whole number above 0."""
        value = self.inputs.stage.constants[name]
        if value < 1 or value != int(value):
            raise BundleError(
                f"{self.inputs.folder}: stage '{self.name}': the constant {name} must be a whole number above 0; "
                f"received {value}; export the bundle again"
            )
        return int(value)

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        request = candidates.request
        query = self.query_output(request.query, candidates.shared)
        logits = self.meet(query, request.items.vectors(self.name, candidates.rows))
        if self._matches is not None:
            logits += self._matches.read(candidates)
        return logits[:, None]

    def meet(self, query: Floats, vectors: Floats) -> Floats:
        """The logits, less what matches add, of what the graph gives of a query and of item vectors: (n, d) → (n,)."""
        constants = self.inputs.stage.constants
        dot: Floats = vectors @ query[0]
        return np.float32(constants["scale"]) * dot + np.float32(constants["bias"])

    def query_output(self, row: Rows, shared: Shared) -> Floats:
        """What the graph gives of a query, of `query_shape`."""
        found: Floats = self._query.run(None, {"query": self.inputs.query(row, shared)})[0]
        return found

    def query_vector(self, row: Rows, shared: Shared) -> Floats:
        """The vector of a query: (d,)."""
        vector: Floats = self.query_output(row, shared)[0]
        return vector

    def item_vectors(self, rows: Rows) -> Floats:
        """The vectors of the records of items: (N, d)."""
        vectors: Floats = self._item.run(None, dict(self.inputs.record(rows)))[0]
        return vectors


class MatchTerms:
    """Counts and encodes the matches of one stage by the code that packing used, and no other cross."""

    def __init__(self, inputs: ScorerInputs) -> None:
        """Raises BundleError if a match is no feature that can be counted, or the facts lack its weights."""
        stage, layout = inputs.stage, inputs.layout
        crosses = layout.schema.derived("cross")
        for name in stage.matches:
            if name not in crosses or not crosses[name].compares:
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
        added = np.zeros(count, dtype=np.float32)
        for name, value in derive_features(
            encoder.schema, "cross", sides, encoder.priors, times, self._worth
        ).items():
            column, worth = encoder.encoders.encode_derived(name, value), self._worth[name]
            added += worth[column] if column.dtype == np.int32 else worth * column
        return added
