"""Scorer `parts`: one graph over what was computed of items ahead, the query, and what belongs to the pair.

Letters: n candidates.
"""

from corank.core.errors import BundleError
from corank.core.types import Floats, Numbers
from corank.serving.funnel.scorers.match_terms import MatchTerms
from corank.serving.funnel.stage_scorer import SCORERS, Candidates, ScorerInputs, StageScorer, open_graph

PART, MATCHES = "part.", "matches"
"""What a graph calls the rows of an item part, and what matches add to logits."""
OUTPUTS = ["logits", "value"]


@SCORERS.register("parts")
class PartsScorer(StageScorer):
    """Takes the candidates' rows of the item parts and runs the graph `value`, calibration and formula included."""

    def __init__(self, inputs: ScorerInputs) -> None:
        self.inputs, stage = inputs, inputs.stage
        if not stage.item_parts:
            raise BundleError(
                f"{inputs.folder}: stage '{stage.name}': its facts name no item parts, which the scorer "
                f"'{stage.scorer}' needs; export the bundle again"
            )
        request = inputs.request_shapes
        shapes = {
            **request,
            **{PART + part: (None, width) for part, width in stage.item_parts.items()},
            **inputs.column_shapes,
            **({MATCHES: (None,)} if stage.matches else {}),
        }
        self.session = open_graph(
            inputs.folder / f"{stage.name}.value.onnx",
            shapes,
            [(None, len(stage.labels)), inputs.value_shape],
            optional=request.keys(),
        )
        self._parts = [(PART + part, f"{stage.name}.{part}") for part in stage.item_parts]
        self._matches = MatchTerms(inputs) if stage.matches else None
        self._request = request.keys() & {node.name for node in self.session.get_inputs()}

    def score(self, candidates: Candidates) -> Floats:
        """As `StageScorer.score`."""
        return self.evaluate(candidates)[0]

    def evaluate(self, candidates: Candidates) -> tuple[Floats, Numbers]:
        """As `StageScorer.evaluate`."""
        request, rows = candidates.request, candidates.rows
        feeds: dict[str, Numbers] = {**self.inputs.of_request(candidates, self._request)}
        feeds |= self.inputs.columns(candidates)
        for name, part in self._parts:
            feeds[name] = request.items.part(part, rows)
        if self._matches is not None:
            feeds[MATCHES] = self._matches.read(candidates)
        logits, value = self.session.run(OUTPUTS, feeds, candidates.options)
        return logits, value
