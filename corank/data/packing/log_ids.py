"""The distinct items and users of the log."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import polars as pl

from corank.core.types import Longs
from corank.data.packing.measure import MeasuredColumn, measure_columns
from corank.data.tables import Table
from corank.engine.base import Engine
from corank.features.log_schema import DataSettings
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
class LogIds:
    """The ids of a log. All are held in memory by the process that packs."""

    items: pl.Series
    """Distinct, ascending."""
    users: pl.Series
    """Distinct, ascending."""

    @classmethod
    def read(cls, log: Table, data: DataSettings, spill: Path, engine: Engine) -> Self:
        """Find them in one pass over the log.

        Args:
            log: a log that `LogSummary.read` accepts.
            data: its settings.
            spill: a folder for files, which is made.
            engine: runs the tasks.
        """
        wanted = [
            (MeasuredColumn(log, log.key(column)), Measurement(DistinctValues()))
            for column in (data.item, data.user)
        ]
        items, users = measure_columns(wanted, spill, engine)
        return cls(items["value"].sort(), users["value"].sort())
