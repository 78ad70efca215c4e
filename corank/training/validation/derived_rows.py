"""Derived features of candidates whose operands are read from tables, as packing and serving compute them.

Letters: N candidates · M rows of items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from corank.core.ragged import Vectors
from corank.core.types import Index, Longs
from corank.data.derived_columns import derive_features, encode_columns
from corank.features.encoders import Encoders
from corank.features.encoding import Encoded
from corank.features.operand_rows import OperandRows
from corank.features.operands import OperandNames, Operands, with_compared
from corank.features.priors import PriorSnapshots
from corank.features.schema import PLACEMENTS, Placement


@dataclass(frozen=True)
class CandidateRows:
    """What the operands of N candidates are read from."""

    encoders: Encoders
    priors: PriorSnapshots
    """The time zone in which steps of time begin."""
    column: Callable[[str], pl.Series]
    """The values of a feature: of the query (N), of items (M)."""
    item: Index
    """The item row of each candidate: (N,)."""
    items: int
    """M."""
    times: Longs
    """Of the requests, ms UTC: (N,)."""
    request: Index
    """The number of each one's request, all of whose candidates are there: (N,)."""

    def encode(self, names: Sequence[str]) -> dict[str, Encoded]:
        """Compute derived features and encode them: by name (N). They are no priors, and no histories are needed."""
        schema, count = self.encoders.schema, len(self.times)
        _, first, of, size = np.unique(
            self.request, return_index=True, return_inverse=True, return_counts=True
        )
        query = self._operands("query", names, count).take(first)
        item = self._operands("item", names, self.items)
        logged = self._operands("cross", names, count)
        sides = OperandRows.pairs(schema, query, item, of, self.item, logged)
        found: dict[str, Encoded] = {}
        for placement in PLACEMENTS:
            values = derive_features(schema, placement, sides, self.priors, self.times, names, size[of])
            found |= encode_columns(self.encoders, values)
        return found

    def _operands(self, placement: Placement, names: Sequence[str], count: int) -> Operands:
        schema = self.encoders.schema
        features = with_compared(schema, [schema.derived()[name] for name in names])
        wanted = OperandNames.of(schema, placement, features)
        vectors = {}
        for operand in dict.fromkeys(part for feature in features for part in feature.operands):
            if schema.placement(operand) == placement and schema.features[operand].storage == "vector":
                encoded = self.encoders.encode(operand, self.column(operand))
                assert isinstance(encoded, Vectors)
                vectors[operand] = encoded
        return replace(Operands.of(self.encoders, wanted, self.column, count), vectors=vectors)
