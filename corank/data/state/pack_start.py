"""The times from which a packing reads its tables: all rows, or those that an earlier packing does not hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

import numpy as np
import polars as pl

from corank.core.time import MILLISECOND, NEVER, floor_times
from corank.data.state.earlier_pack import EarlierPack
from corank.data.tables import Table
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.features.splits.later import LaterSplit


@dataclass(frozen=True)
class KeepLater:
    """Keeps the rows of a table from a time on."""

    later: pl.Expr
    """Whether a row is one of them."""

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Filter."""
        return frame.filter(self.later)


@dataclass(frozen=True)
class PackStart:
    """The times from which a packing reads its tables. They are in ms UTC; NEVER for all rows."""

    earlier: EarlierPack | None = None
    since: int = NEVER
    """Rows before are in no split."""
    carried: frozenset[str] = frozenset()
    """Features that are those of the earlier packing."""
    periods: Mapping[str, int] = field(default_factory=dict)
    """By prior whose counts continue: rows are counted from this period on."""
    events: Mapping[str, int] = field(default_factory=dict)
    """By name of events of the log, or of a table, that continue: those from this time on are read."""
    log_from: int = NEVER
    """Rows of the log before are not read."""
    tables_from: Mapping[str, int] = field(default_factory=dict)
    """By table of `data.events`, rows before are not read."""
    files: Mapping[str, list[str]] = field(default_factory=dict)
    """By table, `log` or `events.NAME`, the files that are read; all by default."""

    @classmethod
    def after(cls, earlier: EarlierPack, data: DataSettings, schema: Schema) -> Self:
        """Start where an earlier packing ended.

        Rows before its end are read as history alone, as far back as priors whose last period was not over, and labels
        that were not mature, need them.
        """
        carried, since = earlier.find_carried(schema), earlier.through
        periods = {
            name: int(floor_times(np.array([since]), prior.every, data.timezone)[0])
            for name, prior in schema.priors().items()
            if name in carried
        }
        # a prior's row of a period has been known since the period's begin, or later
        of_priors: dict[str | None, list[int]] = {}
        for name, period in periods.items():
            prior = schema.priors()[name]
            begin = period - prior.known_after(data) // MILLISECOND
            of_priors.setdefault(prior.events, []).append(begin)
        events = {
            name: since - matures // MILLISECOND
            for name, matures in _events(schema, data)
            if name in {history.events for history in earlier.schema.histories().values()}
        }
        logged = {h.events for h in schema.histories().values() if h.table is None and h.lists is None}
        # a history that is new reads its whole table
        unread = {h.table for h in schema.histories().values() if h.table and h.events not in events}
        return cls(
            earlier,
            since,
            carried,
            periods,
            events,
            min([since, *of_priors.get(None, []), *(t for n, t in events.items() if n in logged)]),
            {n: min([since, *of_priors.get(n, [])]) for n in data.events if n not in unread},
        )

    def split(self, data: DataSettings) -> DataSettings:
        """Return the settings with splits that have no rows of the earlier packing."""
        if self.earlier is None:
            return data
        return data.model_copy(update={"split": LaterSplit(rule=data.split, since=self.since)})

    def list_events(self, data: DataSettings) -> DataSettings:
        """Return the settings with the files of events that are read."""
        named = {
            name: events.model_copy(update={"table": self.files.get(f"events.{name}", events.table)})
            for name, events in data.events.items()
        }
        return data.model_copy(update={"events": named})

    def keep_log(self, log: Table, data: DataSettings) -> Table:
        """Leave out the rows of the log that are not read."""
        return _keep(log, data.time, self.log_from)

    def keep_events(self, name: str, table: Table, column: str) -> Table:
        """Leave out the rows of a table of events that are not read; `column` has the times."""
        return _keep(table, column, self.tables_from.get(name, NEVER))


FROM_BEGIN = PackStart()
"""Reads all rows."""


def _keep(table: Table, column: str, since: int) -> Table:
    return table if since == NEVER else table.keep(KeepLater(table.since(column, since)))


def _events(schema: Schema, data: DataSettings) -> Iterable[tuple[str, timedelta]]:
    """List the events of histories that no column lists: their name, and the delay of their label."""
    for history in schema.histories().values():
        if history.lists is None:
            yield history.events, data.matures(history.event) if history.event else timedelta()
