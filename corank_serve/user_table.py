"""A table of users for a store: the histories that a bundle makes of a log or of tables of events, at one time.

Letters: U users.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError
from corank.core.files import atomic_file
from corank.core.reports import Progress
from corank.data.event_tables import EventColumns
from corank.data.log_rows import log_columns, request_columns, scan_log
from corank.data.tables import Table
from corank.data.validate import check_rows, label_checks, whole_checks
from corank.data.versioned_tables import read_versions
from corank.features.log_schema import ITEM, ROW, TIME, USER, DataSettings
from corank.features.schema import Schema
from corank.funnel.log_requests import cut_histories, needed_settings, open_event_tables
from corank_serve.store.users import user_columns

BLOCK = 100_000
"""Users whose events are in memory at once."""


@dataclass(frozen=True)
class UserSources:
    """The tables that a table of users is made of."""

    manifest: BundleManifest
    data: DataSettings
    log: Table | None
    users: Table | None
    events: Mapping[str, Table]

    @classmethod
    def open(
        cls,
        manifest: BundleManifest,
        log: str | list[str] | None,
        users: str | None,
        events: Mapping[str, str],
    ) -> Self:
        """Check the tables. Raises DataError: one is missing, is of no use, or lacks a column."""
        histories, data = manifest.declared.histories(), manifest.data
        logged = [n for n, h in histories.items() if h.lists is None and h.table is None]
        if not logged and not any(h.table for h in histories.values()):
            raise DataError(
                "the bundle makes no history of a log or of a table of events; users need none of it"
            )
        if logged and log is None:
            raise DataError(
                f"--log: the bundle makes the history '{logged[0]}' of a log's exposures; give it"
            )
        if log is not None and not logged:
            raise DataError("--log: the bundle makes no history of a log's exposures; leave it out")
        opened = open_event_tables(manifest, events)
        scanned = None if log is None else scan_log(data, Path(), log)
        if scanned is not None:
            data = needed_settings(manifest, scanned).model_copy(update={"columns": []})
            keys = [*data.request, data.user, data.item]
            levels = [data.level] if data.level is not None else []
            scanned.require([*keys, data.time, *levels, *(label.column for label in data.labels.values())])
            check_rows(scanned, [*whole_checks(scanned, keys), *label_checks(scanned, data)])
        table = None if users is None else Table.scan("users", users, Path(), data.nulls)
        if table is not None:
            table.require([data.user])
            check_rows(table, whole_checks(table, [data.user]))
        return cls(manifest, data, scanned, table, opened)

    def _keys(self) -> Iterator[tuple[Table, pl.Expr, pl.Expr]]:
        """The tables of events and of candidates, with the user and the time of a row."""
        if self.log is not None:
            yield self.log, self.log.key(self.data.user), self.log.moment(self.data.time)
        for name, table in self.events.items():
            columns = EventColumns.of(self.data.events[name], self.data)
            yield table, table.key(columns.user), table.moment(columns.time)

    def list_users(self) -> pl.Series:
        """List the users of all tables, ascending. Raises DataError if their ids are of several types."""
        keys = [(table, user) for table, user, _ in self._keys()]
        if self.users is not None:
            keys.append((self.users, self.users.key(self.data.user)))
        series = [table.collect(table.frame.select(key.alias(USER)).unique())[USER] for table, key in keys]
        if len(kinds := {str(ids.dtype) for ids in series}) > 1:
            raise DataError(
                f"column '{self.data.user}': ids of users are {' and '.join(sorted(kinds))}; one is needed"
            )
        return pl.concat(series).drop_nulls().unique().sort()

    def find_end(self) -> int:
        """Find the time after the last row of the log and the tables of events, ms UTC. Raises DataError if empty."""
        last = [
            table.collect(table.frame.select(time.max().alias(TIME)))[TIME][0]
            for table, _, time in self._keys()
        ]
        if not (known := [int(time) for time in last if time is not None]):
            raise DataError("the log and the tables of events are empty")
        return max(known) + 1

    def read(self, users: pl.Series, until: int) -> pl.DataFrame:
        """Read what U users have at a time, ms UTC: their histories, and the columns of the table of users."""
        requests = pl.DataFrame({USER: users, TIME: np.full(len(users), until)})
        columns: dict[str, Any] = {self.data.user: users}
        logged = None if self.log is None else self._read_log(self.log, users)
        columns |= cut_histories(self.manifest, self.data, self.events, requests, logged)
        return pl.DataFrame(columns | self._read_columns(users, until, columns))

    def _read_columns(self, users: pl.Series, until: int, made: Mapping[str, Any]) -> dict[str, pl.Series]:
        """The columns of the table of users at a time that a request may have: (U,) each."""
        if self.users is None:
            return {}
        wanted = [c for c in user_columns(self.manifest) if c in self.users.types and c not in made]
        if not wanted:
            return {}
        versions, _ = read_versions(self.users, self.data.user, wanted, users, only=True)
        rows = versions.find(users, np.full(len(users), until))
        return {column: versions.frame[column].gather(rows) for column in wanted}

    def _read_log(self, log: Table, users: pl.Series) -> pl.DataFrame:
        """The log's candidates of some users, each once."""
        chosen = log.frame.select(log_columns(log, self.data, Schema({}), {}))
        rows = log.collect(chosen.with_row_index(ROW).join(pl.LazyFrame({USER: users}), on=USER, how="semi"))
        return rows.unique(
            [*request_columns(self.data).values(), ITEM, TIME], keep="first", maintain_order=True
        )


def write_users(
    sources: UserSources, out: Path, until: int | None, progress: Progress = lambda done, total: None
) -> int:
    """Write a table of users, as `corank publish --users` takes it.

    Args:
        sources: the tables.
        out: the Parquet file.
        until: ms UTC; a history has what a request at this time sees. After the last row unless given.
        progress: takes how many users are done, and of how many.

    Returns:
        The number of users.

    Raises DataError if a table cannot be read.
    """
    users, end = sources.list_users(), sources.find_end() if until is None else until
    frames = []
    for first in range(0, len(users), BLOCK):
        frames.append(sources.read(users[first : first + BLOCK], end))
        progress(min(first + BLOCK, len(users)), len(users))
    with atomic_file(out) as partial:
        pl.concat(frames).write_parquet(partial)
    return len(users)
