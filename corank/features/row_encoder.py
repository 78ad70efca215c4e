"""Rows of one placement, encoded: one code for packing, batches, bundles and requests.

Columns are read first: they give features, and the operands of derived ones. These are computed from operands, of the
rows alone or of pairs, as soon as histories are cut and priors counted.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import polars as pl

from corank.core.ragged import Rows
from corank.core.types import Doubles, Hashes, Longs
from corank.features.encoders import Encoders, assemble_rows
from corank.features.encoding import Column, Encoded, Encoder, Placement, RowFeatures
from corank.features.feature_kind import DerivedFeature
from corank.features.operands import OperandNames, OperandRows, Operands
from corank.features.priors import PointInTime, PriorSnapshots
from corank.features.schema import plain_columns

Derived = Mapping[str, Hashes | Doubles]
"""By feature: hashes, 0 where missing, or numbers, NaN where missing: (N,)."""


class EncodedColumns(NamedTuple):
    """What N rows have in columns."""

    features: dict[str, Encoded]
    """By name: (N)."""
    operands: Operands
    """What derived features take of them: (N)."""


@dataclass(frozen=True)
class RowEncoder:
    """Encodes N rows of a placement: of queries, items, items' snapshots, or pairs."""

    encoders: Encoders
    placement: Placement
    names: Collection[str] | None = None
    """The features to encode; all of the placement if None."""

    def _has(self, name: str) -> bool:
        return self.names is None or name in self.names

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """The column of each feature that is encoded value by value: histories are not."""
        schema = self.encoders.schema
        return {n: schema.column(n) for n in plain_columns(schema, self.placement) if self._has(n)}

    @cached_property
    def _column_names(self) -> frozenset[str]:
        return frozenset(self.columns.values())

    @cached_property
    def operands(self) -> OperandNames:
        """What derived features take of these, in the order in which it is saved."""
        return self.encoders.schema.operand_names(self.placement).among(self.columns)

    @cached_property
    def derived(self) -> Mapping[str, tuple[DerivedFeature, Encoder | None]]:
        """The derived features, with their encoders."""
        schema, fitted = self.encoders.schema, self.encoders.fitted
        return {n: (f, fitted.get(n)) for n, f in schema.derived(self.placement).items() if self._has(n)}

    @cached_property
    def placed(self) -> RowFeatures:
        """The features of its rows."""
        return self.encoders.schema.row_features(self.placement)

    def taken_of(self, placement: Placement) -> frozenset[str]:
        """The features of rows of a placement that the derived features take."""
        features = [feature for feature, _ in self.derived.values()]
        return frozenset(self.encoders.schema.operand_names(placement, features).names)

    def encode(self, columns: Mapping[str, pl.Series], count: int) -> EncodedColumns:
        """Encode columns of N = `count` rows, of which absent ones are all missing. Raises DataError."""
        values, encode = self._values(columns, count), self.encoders.encode
        features = {name: encode(name, series) for name, series in values.items()}
        if not self.operands:
            return EncodedColumns(features, Operands(count, {}, {}, {}))
        return EncodedColumns(features, self.encoders.operands(self.operands, values.__getitem__, count))

    def missing(self, count: int) -> dict[str, Encoded]:
        """Encode the columns of N = `count` rows that have none."""
        return {name: self.encoders.encode(name, none) for name, none in self._values({}, count).items()}

    def _values(self, columns: Mapping[str, pl.Series], count: int) -> dict[str, pl.Series]:
        if not columns.keys() >= self._column_names:
            absent = pl.Series([None] * count, dtype=pl.Null)
            columns = {**dict.fromkeys(self._column_names, absent), **columns}
        return {name: columns[column] for name, column in self.columns.items()}

    def values(
        self, sides: OperandRows, priors: PriorSnapshots, times: Longs, sizes: Longs | None = None
    ) -> Derived:
        """Compute the derived features of N rows.

        Args:
            sides: the operands.
            priors: what was counted.
            times: of the rows, ms UTC: (N,). A feature of `snapshot` is computed at the begin of its period.
            sizes: how many candidates each row's request has: (N,), for rows of the query.
        """
        computed, derived = {}, self.encoders.schema.derived()
        for name, (feature, _) in self.derived.items():
            every = feature.snapshot_every if self.placement == "snapshot" else None
            at = times if every is None else priors.cuts(name, every, times)
            computed[name] = feature.derive(sides, PointInTime(name, at, priors, sizes, derived))
        return computed

    def derive(
        self, sides: OperandRows, priors: PriorSnapshots, times: Longs, sizes: Longs | None = None
    ) -> dict[str, Column]:
        """Compute the derived features of N rows, as `values` does, and encode them."""
        computed = self.values(sides, priors, times, sizes)
        return {n: feature.encode(encoder, computed[n]) for n, (feature, encoder) in self.derived.items()}

    def rows(self, features: Mapping[str, Encoded], count: int) -> Rows:
        """Put encoded features, all of the placement's by name, together as N = `count` rows."""
        return assemble_rows(self.placed, features, count)
