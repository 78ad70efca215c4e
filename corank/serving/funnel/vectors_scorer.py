"""Scorer `vectors`: logit = scale · ⟨query vector, item vector⟩ + bias.

Letters: n candidates · N items · d width of the vectors.
"""

from typing import ClassVar

import numpy as np

from corank.core.errors import BundleError
from corank.core.ragged import Rows
from corank.core.types import Floats
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

    A subclass scores otherwise what the graph of queries gives and the vectors of items.
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
        vectors = request.items.vectors(self.name, candidates.rows)
        dot: Floats = vectors @ self.query_vector(request.query, candidates.shared)
        constants = self.inputs.stage.constants
        return (np.float32(constants["scale"]) * dot + np.float32(constants["bias"]))[:, None]

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
