"""The tables of a join: the log and events, of which each file is read once for the days that it has rows of."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec
import polars as pl

from corank.core.errors import DataError
from corank.core.panics import PanicError, panics_as_errors
from corank.core.reports import Report
from corank.core.time import DAY, MILLISECOND, format_time, now_ms
from corank.data.joined_labels import KIND, JoinColumns, JoinedEvents, JoinedLabel, JoinSettings
from corank.data.tables import Table, find_source_files, scan_files
from corank.features.log_schema import ITEM, TIME, USER

DAY_MS = DAY // MILLISECOND


class JoinedFile(msgspec.Struct, frozen=True):
    """A file as it was read."""

    version: list[int | str] | None
    days: list[int]
    """In which it has rows (UTC), counted from 1970."""
    last: int | None
    """Its last time, ms UTC; None if it has no rows."""
    rows: int
    """Those that count: of events, the ones of the kind."""


@dataclass(frozen=True)
class JoinTable:
    """The log, or the events of a label."""

    table: Table
    keys: list[pl.Expr]
    """What a row is joined by: request key, user, item and time, as far as it has them."""
    kind: str | None
    files: Mapping[str, JoinedFile]
    """By path, relative to the folder that is written; in the order of the table's."""

    @classmethod
    def read(
        cls,
        name: str,
        events: JoinedEvents | None,
        settings: JoinSettings,
        columns: JoinColumns,
        base: Path,
        out: Path,
        known: Mapping[str, JoinedFile],
        report: Report,
        log: Self | None = None,
    ) -> Self:
        """Read the files of a table that are not known, or changed since.

        Args:
            name: for messages.
            events: those of a label; None: the log.
            settings: of the join.
            columns: of the log.
            base: the folder that paths are relative to.
            out: the folder that is written.
            known: files as they were read before.
            report: takes a line for events that cannot be joined.
            log: that of the events.

        Raises DataError for a file that cannot be joined.
        """
        with plain_names():
            table = Table.scan(name, settings.log if events is None else events.events, base)
            files = {}
            for source, path in zip(find_source_files(list(table.paths), base), table.paths, strict=True):
                key, version = source.name(out), None if source.version is None else list(source.version)
                before = known.get(key)
                if before is None or version is None or before.version != version:
                    one = _open_file(table, path, source.name(base))
                    _check_ids(one, events, columns, log.table if log else table)
                    before = _read_file(one, events, settings, columns, version, report)
                files[key] = before
            return cls(table, select_keys(table, events, columns), events.kind if events else None, files)

    @property
    def days(self) -> set[int]:
        """On which it has rows."""
        return {day for file in self.files.values() for day in file.days}

    def rows(self, begin: int, end: int) -> pl.LazyFrame:
        """The rows from a time until another one, ms UTC, both in it, with `keys` as further columns."""
        days = range(begin // DAY_MS, end // DAY_MS + 1)
        near = [any(day in days for day in file.days) for file in self.files.values()]
        paths = [path for path, is_near in zip(self.table.paths, near, strict=True) if is_near]
        rows = scan_files(self.table.format, paths or list(self.table.paths[:1])).with_columns(self.keys)
        if self.kind is not None:
            rows = rows.filter(pl.col(KIND).cast(pl.String) == self.kind)
        return rows.filter(pl.col(TIME).is_between(begin, end))

    def select(self, begin: int, end: int) -> pl.LazyFrame:
        """The keys of such rows alone."""
        return self.rows(begin, end).select(expression.meta.output_name() for expression in self.keys)


def select_keys(table: Table, events: JoinedEvents | None, columns: JoinColumns) -> list[pl.Expr]:
    """Select what a row of the log, or an event, is joined by. Raises DataError for a column that lacks or misfits."""
    named = events is None or not isinstance(events, JoinedLabel) or events.of_request
    keys = [table.key(column).alias(to) for column, to in columns.key.items()] if named else []
    if events is None or not named:
        keys.append(table.key(columns.user).alias(USER))
    return [*keys, table.key(columns.item).alias(ITEM), table.moment(columns.time).alias(TIME)]


def _open_file(table: Table, path: str, name: str) -> Table:
    """One file of a table. Raises DataError."""
    one = replace(table, name=name, frame=scan_files(table.format, [path]), paths=(path,))
    try:
        with panics_as_errors():
            return replace(one, types=one.frame.collect_schema())
    except (pl.exceptions.PolarsError, OSError, PanicError) as error:
        raise one.unreadable(error) from None


def _check_ids(table: Table, events: JoinedEvents | None, columns: JoinColumns, log: Table) -> None:
    """Raise DataError if ids of a file are of another type than those of the log."""
    types = table.frame.select(select_keys(table, events, columns)).collect_schema()
    for column, name in _columns(columns).items():
        expected = log.frame.select(log.key(column)).collect_schema()[column]
        if types.get(name, expected) not in (expected, pl.Null):
            raise table.unfit(column, f"{expected}, as in {log.paths[0]}: write ids alike")


def _read_file(
    table: Table,
    events: JoinedEvents | None,
    settings: JoinSettings,
    columns: JoinColumns,
    version: list[int | str] | None,
    report: Report,
) -> JoinedFile:
    """Read which days a file has rows of. Raises DataError."""
    kind = events.kind if events else None
    keys = select_keys(table, events, columns)
    counts = pl.lit(True)
    if kind is not None:
        table.require([KIND])
        counts = (pl.col(KIND).cast(pl.String) == kind).fill_null(False)
    names = [key.meta.output_name() for key in keys]
    lacking = pl.any_horizontal(pl.col(name).is_null() for name in names if name != TIME)
    facts = table.collect(
        table.frame.select(*keys, counts.alias(KIND)).select(
            (pl.col(TIME) // DAY_MS).drop_nulls().unique().sort().implode().alias("days"),
            pl.col(TIME).max().alias("last"),
            pl.col(TIME).null_count().alias("timeless"),
            (pl.col(KIND) & ~lacking).sum().alias("rows"),
            (pl.col(KIND) & lacking).sum().alias("lacking"),
        )
    ).row(0, named=True)
    where = f"{table.name}: column '{columns.time}'"
    if facts["timeless"]:
        raise DataError(
            f"{where} is missing in {facts['timeless']:,} rows; leave them out, or write their times"
        )
    if events is not None and (facts["last"] or 0) > now_ms() + settings.skew // MILLISECOND:
        raise DataError(
            f"{where} holds {format_time(facts['last'])}, which is to come; repair it, or give a skew"
        )
    if events is not None and facts["lacking"]:
        what = ", ".join(column for column, name in _columns(columns).items() if name in names)
        report(f"{table.name}: {facts['lacking']:,} events without {what} do not count")
    return JoinedFile(version, facts["days"], facts["last"], facts["rows"])


def _columns(columns: JoinColumns) -> dict[str, str]:
    return columns.key | {columns.user: USER, columns.item: ITEM}


@contextmanager
def plain_names() -> Iterator[None]:
    """Name tables in errors as they are called, not as keys of a config."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).removeprefix("data.")) from None
