"""Scorer `graph`: the whole forward of a stage, run for every candidate."""

from corank.core.types import Floats
from corank.serving.funnel.stage_scorer import SCORERS, Candidates, ScorerInputs, StageScorer, open_graph


@SCORERS.register("graph")
class GraphScorer(StageScorer):
    """Runs one graph over query, items, pairs, history and what is seen of earlier stages."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs = inputs
        path, labels = inputs.folder / f"{inputs.stage.name}.onnx", len(inputs.stage.labels)
        self.session = open_graph(path, inputs.shapes, [(None, labels)])

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        logits: Floats = self.session.run(None, self.inputs.all(candidates), candidates.options)[0]
        return logits
