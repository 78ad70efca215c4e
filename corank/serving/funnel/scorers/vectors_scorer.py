"""Scorer `vectors`: logit = scale · ⟨query vector, item vector⟩ + bias, and what matches add.

It serves stage models of plug-ins that have vectors and no graph `value`.

Letters: n candidates · d width of the vectors.
"""

import numpy as np

from corank.core.errors import BundleError
from corank.core.ragged import Rows
from corank.core.types import Floats
from corank.serving.funnel.scorers.match_terms import MatchTerms
from corank.serving.funnel.stage_scorer import (
    SCORERS,
    Candidates,
    ScorerInputs,
    Shared,
    StageScorer,
    open_graph,
)


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
