"""Scorer `graph`: the whole forward of a stage, run for every candidate, calibration and formula included."""

from corank.core.types import Floats, Numbers
from corank.serving.funnel.stage_scorer import SCORERS, Candidates, ScorerInputs, StageScorer, open_graph


@SCORERS.register("graph")
class GraphScorer(StageScorer):
    """Runs one graph over query, items, pairs, history, what is seen of earlier stages, and columns of the value."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs, name, logits = inputs, inputs.stage.name, (None, len(inputs.stage.labels))
        older = inputs.folder / f"{name}.onnx"
        self._values = not older.exists()
        """Whether the graph gives values; before format 8 it gave logits alone."""
        if self._values:
            shapes = {**inputs.shapes, **inputs.column_shapes}
            self.session = open_graph(
                inputs.folder / f"{name}.value.onnx", shapes, [logits, inputs.value_shape]
            )
        else:
            self.session = open_graph(older, inputs.shapes, [logits])

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        return self.evaluate(candidates)[0]

    def evaluate(self, candidates: Candidates) -> tuple[Floats, Numbers | None]:
        """As `StageScorer.evaluate`."""
        given: dict[str, Numbers] = {**self.inputs.all(candidates)}
        if not self._values:
            return self.session.run(None, given, candidates.options)[0], None
        logits, value = self.session.run(None, given | self.inputs.columns(candidates), candidates.options)
        return logits, value
