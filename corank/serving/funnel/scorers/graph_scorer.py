"""Scorer `graph`: the whole forward of a stage, run for every candidate, calibration and formula included."""

from corank.core.types import Floats, Numbers
from corank.serving.funnel.stage_scorer import SCORERS, Candidates, ScorerInputs, StageScorer, open_graph


@SCORERS.register("graph")
class GraphScorer(StageScorer):
    """Runs one graph over query, items, pairs, history, what is seen of earlier stages, and columns of the value."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs, stage = inputs, inputs.stage
        self.session = open_graph(
            inputs.folder / f"{stage.name}.value.onnx",
            {**inputs.shapes, **inputs.column_shapes},
            [(None, len(stage.labels)), inputs.value_shape],
        )

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        return self.evaluate(candidates)[0]

    def evaluate(self, candidates: Candidates) -> tuple[Floats, Numbers]:
        """As `StageScorer.evaluate`."""
        feeds: dict[str, Numbers] = {**self.inputs.all(candidates), **self.inputs.columns(candidates)}
        logits, value = self.session.run(None, feeds, candidates.options)
        return logits, value
