"""What matches of query and item add to logits, counted for the candidates of a request.

Letters: n candidates.
"""

import numpy as np

from corank.core.errors import BundleError
from corank.core.types import Floats
from corank.data.derived_columns import derive_features
from corank.features.operand_rows import OperandRows
from corank.serving.funnel.stage_scorer import Candidates, ScorerInputs


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
