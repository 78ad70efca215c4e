"""Tables of events of their own: opened, and checked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.data.tables import Table
from corank.data.validate import check_rows, whole_checks
from corank.features.history import History
from corank.features.log_schema import ITEM, TIME, USER, DataSettings, EventTable


def open_events(data: DataSettings, base: Path) -> dict[str, Table]:
    """Open the tables of `data.events`, by name. Raises DataError if one lacks a column."""
    opened = {}
    for name, settings in data.events.items():
        opened[name] = Table.scan(f"events.{name}", settings.table, base, data.nulls)
        columns = EventColumns.of(settings, data)
        # events need no item: whoever reads them as items requires it
        opened[name].require([columns.user, columns.time, *filter(None, [settings.item])])
    return opened


def open_given_events(
    data: DataSettings,
    given: Mapping[str, str | list[str]],
    wanted: Collection[str],
    purpose: str,
    base: Path,
) -> dict[str, Table]:
    """Open the tables of events passed to a command, by name.

    Args:
        data: the settings of the log that a bundle was made of.
        given: the files of each.
        wanted: the names of those that are read.
        purpose: what the bundle makes of them, for messages, such as "histories".
        base: the folder that paths are relative to.

    Raises DataError if one is missing, not needed, or lacks a column.
    """
    for name in sorted(given.keys() ^ set(wanted)):
        if name in wanted:
            raise DataError(f"--events: the bundle makes {purpose} of the events '{name}'; give {name}=FILES")
        read = f", but {', '.join(wanted)}" if wanted else ""
        raise DataError(f"--events: the bundle reads no '{name}' for {purpose}{read}; leave it out")
    named = {name: data.events[name].model_copy(update={"table": given[name]}) for name in wanted}
    return open_events(data.model_copy(update={"events": named}), base)


@dataclass(frozen=True)
class EventColumns:
    """Which columns of an events table hold user, item and time. A history's own values replace items."""

    user: str
    item: str
    time: str

    @classmethod
    def of(cls, settings: EventTable, data: DataSettings, history: History | None = None) -> "EventColumns":
        """Those of a table, for a history of it; of the same names as the log's by default."""
        item = history.values if history and history.values else settings.item or data.item
        return cls(settings.user or data.user, item, settings.time or data.time)

    def select(self, table: Table) -> list[pl.Expr]:
        """Select them from the table, as USER, ITEM and TIME. Raises DataError for a column of another type."""
        return [
            table.key(self.user).alias(USER),
            table.key(self.item).alias(ITEM),
            table.moment(self.time).alias(TIME),
        ]

    def check(self, table: Table, users: pl.DataType, items: pl.DataType | None) -> None:
        """Check all rows of the table in one pass.

        Args:
            table: of events.
            users: type of the log's users.
            items: type of the items' ids; None if the values are no items.

        Raises:
            DataError: a column is of another type than in the log, or a value is null or no whole number.
        """
        kinds = table.collect(table.frame.select(self.select(table)).head(0)).schema
        for column, name, kind in ((self.user, USER, users), (self.item, ITEM, items)):
            if kind is not None and kinds[name] != kind:
                raise table.unfit(column, f"{kind}, as in the log")
        check_rows(table, whole_checks(table, [self.user, self.item]))
        counts = table.frame.select(pl.col(self.user, self.item, self.time).null_count())
        nulls = table.collect(counts).row(0, named=True)
        for column, count in nulls.items():
            if count:
                raise DataError(
                    f"data.{table.name}: column '{column}' is null in {count:,} rows; every event needs one"
                )
