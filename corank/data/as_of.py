"""The rows of `items`, and of `users`, by id and by the time from which they hold."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from corank.core.errors import DataError
from corank.core.ordering import bisect_ranges
from corank.core.time import NEVER
from corank.core.types import Index, Longs
from corank.data.tables import Table
from corank.data.validate import check_numbers
from corank.features.row_columns import FROM, ID, ROW
from corank.features.vocabulary import Keys

VALID_FROM = "valid_from"


@dataclass(frozen=True)
class Versions:
    """N rows, ascending by (id, time from which they hold), beginning for each id with one that always holds.

    That first row has missing features where the table has none without a `valid_from`.
    """

    frame: pl.DataFrame
    """Columns `@id`, `@from` (ms since 1970 UTC, NEVER where it always holds), and the features' columns."""

    @classmethod
    def of(
        cls, table: Table, key: str, columns: list[str], wanted: pl.Series, only: bool
    ) -> tuple[Self, pl.Series]:
        """The table's rows, or `only` those of the `wanted` ids, and the wanted ids that it lacks, ascending.

        Raises DataError for two rows of one id and time, an id that is null, NaN and infinities.
        """
        table.require([key, *columns])
        table.check_whole([key])
        check_numbers(table, columns, [key])
        kind = table.collect(table.frame.select(table.key(key)).head(0)).to_series().dtype
        if kind != wanted.dtype:
            raise table.unfit(key, f"{wanted.dtype}, as in the log")
        begin = table.moment(VALID_FROM).fill_null(NEVER) if VALID_FROM in table.types else pl.lit(NEVER)
        rows = table.frame.select(table.key(key).alias(ID), begin.alias(FROM), *columns)
        ids = pl.LazyFrame({ID: wanted})
        if only:
            rows = rows.join(ids, on=ID, how="semi")
        frame = table.collect(rows).unique()
        if frame[ID].null_count():
            raise DataError(f"data.{table.name}: column '{key}' is null in {frame[ID].null_count()} rows")
        twice = frame.filter(frame.select(ID, FROM).is_duplicated())
        if len(twice):
            raise DataError(
                f"data.{table.name}: {key}={twice[ID].min()!r} has rows that differ; "
                f"keep one, or tell them apart by a column '{VALID_FROM}'"
            )
        absent = wanted.filter(~wanted.is_in(frame[ID].implode())).sort()
        return cls.complete(frame, wanted), absent

    @classmethod
    def complete(cls, frame: pl.DataFrame, wanted: pl.Series) -> Self:
        """Adds a row of missing features, which always holds, to each id (`wanted` or not) without one."""
        have = frame.filter(pl.col(FROM) == NEVER)[ID]
        ids = pl.concat([frame[ID], wanted.alias(ID)]).unique()
        bare = ids.filter(~ids.is_in(have.implode())).to_frame().with_columns(pl.lit(NEVER).alias(FROM))
        return cls(pl.concat([frame, bare], how="diagonal").sort(ID, FROM))

    @classmethod
    def of_ids(cls, wanted: pl.Series) -> Self:
        """Ids alone, where there is no table."""
        return cls.complete(pl.DataFrame(schema={ID: wanted.dtype, FROM: pl.Int64}), wanted)

    def without_features(self) -> Self:
        """The same rows, for finding them only."""
        return type(self)(self.frame.select(ID, FROM))

    def with_snapshots(self, wanted: pl.DataFrame) -> tuple[Self, Longs]:
        """These rows without features, and one more at each `wanted` (`@id`, `@from`), and the row that each is of.

        Every id must be here.
        """
        held = self.frame.select(ID, FROM, pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))
        more = wanted.select(ID, FROM, pl.lit(None, pl.Int64).alias(ROW))
        both = pl.concat([held, more]).sort(ID, FROM, ROW, nulls_last=True)
        both = both.unique([ID, FROM], keep="first", maintain_order=True)
        return type(self)(both.select(ID, FROM)), both[ROW].forward_fill().to_numpy()

    @cached_property
    def ids(self) -> Keys:
        return Keys(self.frame[ID].unique(maintain_order=True))

    @cached_property
    def _offsets(self) -> Longs:
        first = (self.frame[FROM] == NEVER).arg_true().to_numpy().astype(np.int64)
        return np.append(first, len(self.frame))

    @cached_property
    def _from(self) -> Longs:
        return self.frame[FROM].to_numpy()

    def at(self, ids: pl.Series, times: Longs) -> Longs:
        """The row of each id that holds at a time (valid_from ≤ time): (N,). Every id must be here."""
        return self.held(self.ids.find(ids), times)

    def held(self, place: Index, times: Longs) -> Longs:
        """The row, at a time, of the id that is the `place`-th of `ids`: (N,)."""
        low: Longs = self._offsets[place]
        if len(self._from) == len(self._offsets) - 1:
            return low
        row: Longs = bisect_ranges(self._from, low, self._offsets[place + 1], times + 1) - 1
        return row
