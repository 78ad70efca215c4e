"""The distinct items and users of the log."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import polars as pl

from corank.data.packing.measure import MeasuredColumn, measure_columns
from corank.data.state.known_ids import join_ids, keep_from, read_ids
from corank.data.state.pack_start import PackStart
from corank.data.tables import Table
from corank.engine.base import Engine
from corank.features.counts.column_measures import SeenValues
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.features.training_values import Measurement


@dataclass(frozen=True)
class LogIds:
    """The ids of a log, and of the log of earlier packings. The process that packs keeps all in memory."""

    items: pl.DataFrame
    """Columns `value`, distinct, ascending, and `seen`: when last, ms UTC."""
    users: pl.DataFrame
    """The same of users."""
    logged: pl.Series
    """The items of this log alone: a table of items must have a row of each."""

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
            (MeasuredColumn(log, log.key(column), None, log.moment(data.time)), Measurement(SeenValues()))
            for column in (data.item, data.user)
        ]
        items, users = measure_columns(wanted, spill, engine)
        items = items.sort("value")
        return cls(items, users.sort("value"), items["value"])

    def join_earlier(self, start: PackStart, schema: Schema, data: DataSettings, until: int) -> Self:
        """Add the ids of an earlier packing, except those that were not seen for the `keep_days` of the id.

        Args:
            start: names the earlier packing.
            schema: the features.
            data: the settings of the log.
            until: when training ends, ms UTC.

        Raises DataError if ids are of another type than in the earlier packing.
        """
        if start.earlier is None:
            return self
        folder = start.earlier.folder
        return replace(
            self,
            items=join_ids(
                self.items, read_ids(folder, "items"), keep_from(schema, data.item, until), data.item
            ),
            users=join_ids(
                self.users, read_ids(folder, "users"), keep_from(schema, data.user, until), data.user
            ),
        )
