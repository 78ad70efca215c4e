"""Scorer `vectors`: logit = scale · ⟨query vector, item vector⟩ + bias.

Letters: n candidates · N items · d width of the vectors.
"""

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
    """Runs the graph of queries once a request, and a dot product a candidate."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs, self.name = inputs, inputs.stage.name
        folder, shapes, width = inputs.folder, inputs.shapes, inputs.stage.vector_width
        if width is None or not {"scale", "bias"} <= set(inputs.stage.constants):
            raise BundleError(
                f"{folder}: stage '{self.name}': its facts lack the width of vectors, scale or bias; "
                "export the bundle again"
            )
        self._query = open_graph(folder / f"{self.name}.query.onnx", {"query": shapes["query"]}, [(1, width)])
        self._item = open_graph(folder / f"{self.name}.item.onnx", inputs.record_shapes, [(None, width)])
        self._scale = np.float32(inputs.stage.constants["scale"])
        self._bias = np.float32(inputs.stage.constants["bias"])

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        request = candidates.request
        vectors = request.items.vectors(self.name, candidates.rows)
        dot: Floats = vectors @ self.query_vector(request.query, candidates.shared)
        return (self._scale * dot + self._bias)[:, None]

    def query_vector(self, row: Rows, shared: Shared) -> Floats:
        """The vector of a query: (d,)."""
        vector: Floats = self._query.run(None, {"query": self.inputs.query(row, shared)})[0][0]
        return vector

    def item_vectors(self, rows: Rows) -> Floats:
        """The vectors of the records of items: (N, d)."""
        vectors: Floats = self._item.run(None, dict(self.inputs.record(rows)))[0]
        return vectors
