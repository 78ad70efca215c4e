"""The rows of `items` and `users` by id and by the time from which they hold."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from corank.core.hash_index import Keys
from corank.core.ordering import bisect_ranges
from corank.core.time import NEVER
from corank.core.types import Index, Longs
from corank.features.log_schema import FROM, ID, RECORDED


def settle_versions(rows: pl.DataFrame) -> pl.DataFrame:
    """Make FROM the time from which each row is known: the later of FROM and RECORDED.

    A row that was recorded after a newer one of its ID is left out: it never holds. The order of the others may change.
    """
    if RECORDED not in rows.columns:
        return rows
    known = pl.max_horizontal(FROM, RECORDED)
    rows = rows.with_columns(known.alias("@known")).sort(ID, "@known", FROM, RECORDED, maintain_order=True)
    holds = pl.col(FROM) == pl.col(FROM).cum_max().over(ID)
    replaced = pl.struct(ID, "@known") == pl.struct(ID, "@known").shift(-1)
    corrected = pl.struct(FROM, RECORDED) != pl.struct(FROM, RECORDED).shift(-1)
    rows = rows.filter(holds).filter(~(replaced & corrected).fill_null(False))
    return rows.with_columns(pl.col("@known").alias(FROM)).drop("@known", RECORDED)


def newest_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep the newest row of each ID: that of the latest FROM, and of several at one time the last."""
    return rows.sort(FROM, maintain_order=True).unique(ID, keep="last", maintain_order=True)


@dataclass(frozen=True)
class VersionedRows:
    """N rows, ascending by id and by the time from which they hold.

    The first row of each id holds from NEVER on, with features missing if the table has no row without `valid_from`.
    """

    frame: pl.DataFrame
    """Columns ID, FROM and those of the features: (N)."""

    def columns(self, key: str) -> dict[str, pl.Series]:
        """The features' columns, and the ids as the column `key`: (N,)."""
        columns = self.frame.to_dict()
        return columns | {key: columns[ID]}

    @classmethod
    def complete(cls, frame: pl.DataFrame, wanted: pl.Series) -> Self:
        """Sort rows, and add one of missing features from NEVER on to each id, wanted or not, without one."""
        have = frame.filter(pl.col(FROM) == NEVER)[ID]
        ids = pl.concat([frame[ID], wanted.alias(ID)]).unique()
        bare = ids.filter(~ids.is_in(have.implode())).to_frame().with_columns(pl.lit(NEVER).alias(FROM))
        return cls(pl.concat([frame, bare], how="diagonal").sort(ID, FROM))

    @classmethod
    def from_ids(cls, ids: pl.Series) -> Self:
        """Make a row of each id, if there is no table."""
        return cls.complete(pl.DataFrame(schema={ID: ids.dtype, FROM: pl.Int64}), ids)

    @cached_property
    def ids(self) -> Keys:
        """The distinct ids, ascending."""
        return Keys(self.frame[ID].unique(maintain_order=True))

    @cached_property
    def _offsets(self) -> Longs:
        first = (self.frame[FROM] == NEVER).arg_true().to_numpy().astype(np.int64)
        return np.append(first, len(self.frame))

    @cached_property
    def _from(self) -> Longs:
        return self.frame[FROM].to_numpy()

    def find(self, ids: pl.Series, times: Longs) -> Longs:
        """Find the row of each id that holds at a time (valid_from ≤ time): (M,). Every id must be here."""
        return self.find_at(self.ids.find(ids), times)

    def find_at(self, index: Index, times: Longs) -> Longs:
        """Find the row that holds at a time of each id, by its index among `ids`: (M,)."""
        low: Longs = self._offsets[index]
        if len(self._from) == len(self._offsets) - 1:
            return low
        row: Longs = bisect_ranges(self._from, low, self._offsets[index + 1], times + 1) - 1
        return row
