"""The distinct items and users of the log, and the snapshots of priors that the requests of each item see."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

import polars as pl

from corank.core.time import floor_times
from corank.core.types import Longs
from corank.data.packing.measure import MeasuredColumn, measure_columns
from corank.data.tables import Table
from corank.engine.base import Engine
from corank.features.log_schema import DataSettings
from corank.features.row_columns import FROM, ID, TIME
from corank.features.training_values import ColumnMeasure, Measurement, count_values


@dataclass(frozen=True)
class DistinctValues(ColumnMeasure):
    """The distinct values that are not null: column `value`."""

    by_value: ClassVar[bool] = True

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
        """Find those of the part."""
        return count_values(values).select("value")

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Find those of all."""
        return parts.unique()


@dataclass(frozen=True)
class SnapshotTimes(ColumnMeasure):
    """The distinct pairs of an id and the begin of the period in which a row of it lies: `value` and `FROM`.

    It measures structs of an id and a time, ID and TIME.
    """

    by_value: ClassVar[bool] = True
    grids: tuple[timedelta, ...]
    """The lengths of the periods."""
    timezone: str

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
        """Find those of the part."""
        frame = values.struct.unnest()
        times, ids = frame[TIME].to_numpy(), frame[ID].alias("value")
        cuts = [pl.Series(FROM, floor_times(times, every, self.timezone)) for every in self.grids]
        return pl.concat(pl.DataFrame([ids, cut]) for cut in cuts).unique()

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Find those of all."""
        return parts.unique()


@dataclass(frozen=True)
class LogIds:
    """The ids of a log. All are held in memory by the process that packs."""

    items: pl.Series
    """Distinct, ascending."""
    users: pl.Series
    """Distinct, ascending."""
    snapshots: pl.DataFrame
    """Items and the times of the snapshots of priors that their requests see: ID, FROM."""

    @classmethod
    def read(
        cls, log: Table, data: DataSettings, grids: Collection[timedelta], spill: Path, engine: Engine
    ) -> Self:
        """Find them in one pass over the log.

        Args:
            log: a log that `LogSummary.read` accepts.
            data: its settings.
            grids: the distances of snapshots of the priors of items.
            spill: a folder for files, which is made.
            engine: runs the tasks.
        """
        item, user = log.key(data.item), log.key(data.user)
        wanted = [
            (MeasuredColumn(log, item), Measurement(DistinctValues())),
            (MeasuredColumn(log, user), Measurement(DistinctValues())),
        ]
        if grids:
            seen = pl.struct(item.alias(ID), log.moment(data.time).alias(TIME))
            measure = SnapshotTimes(tuple(sorted(grids)), data.timezone)
            wanted.append((MeasuredColumn(log, seen), Measurement(measure)))
        items, users, *snapshots = measure_columns(wanted, spill, engine)
        pairs = snapshots[0].rename({"value": ID}) if snapshots else None
        ids = items["value"].sort()
        none = pl.DataFrame(schema={ID: ids.dtype, FROM: pl.Int64})
        return cls(ids, users["value"].sort(), none if pairs is None else pairs)
