"""A log of requests and tables of events → the log that trains: a Parquet file a day, with labels.

    OUT/2026-03-01.parquet    the rows of a day (UTC), in the order of the log's files, with labels
    OUT/join.json             which files they were made of

A call reads the days whose files changed, or whose labels were not known yet, and replaces those that differ: calls day
by day write the same bytes as one call over all days. Days are written next to the folder and renamed, join.json last:
killed at any moment, the next call does the rest.
"""

import filecmp
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from corank.core.errors import DataError
from corank.core.files import atomic_file, scratch_folder, sync
from corank.core.locks import WriteLock
from corank.core.panics import PanicError, panics_as_errors
from corank.core.reports import Report
from corank.core.time import MILLISECOND, format_time, from_ms
from corank.data.join_tables import DAY_MS, JoinedFile, JoinTable, plain_names
from corank.data.joined_labels import (
    LABELS_AS_OF,
    DayJoin,
    JoinColumns,
    JoinSettings,
    find_labels,
    make_labels,
)
from corank.features.log_schema import ITEM, TIME

STATE = "join.json"
LOG = "log"
ROW_GROUP = 2**18
"""Rows of a part of a written file."""


class JoinState(msgspec.Struct):
    """What a folder was joined of."""

    settings: dict[str, Any]
    known: dict[str, int]
    """Table of events → until when it has them, ms UTC."""
    files: dict[str, dict[str, JoinedFile]]
    """By table (LOG, labels, EXPOSED) and path, relative to the folder; also such that are gone."""


class LabelCount(msgspec.Struct):
    """Events that were read, and candidates of the days that were joined."""

    events: int = 0
    ones: int = 0
    zeros: int = 0


class JoinReport(msgspec.Struct):
    """What a join did."""

    written: list[str]
    """Days whose files changed."""
    as_of: int
    """When labels were looked at, ms UTC: older rows than the longest window have all of theirs."""
    waiting: int
    """Rows of which a label is not known yet."""
    until: int | None
    """When all are, ms UTC; None if none waits."""
    joined: int
    """Days that were joined, also such that came out the same."""
    labels: dict[str, LabelCount]

    def describe_waiting(self) -> str:
        """Say how many rows wait, and until when; blank if none does."""
        if self.until is None:
            return ""
        known = f"labels were looked at {format_time(self.as_of)}"
        return f"{self.waiting:,} rows wait for labels, the last until {format_time(self.until)}; {known}"


def join_log(
    settings: JoinSettings, columns: JoinColumns, base: Path, out: Path, as_of: int | None, report: Report
) -> JoinReport:
    """Join a log with events, into a folder of its own.

    Args:
        settings: the log, its labels, and their events.
        columns: of the log and of events.
        base: the folder that paths of the settings are relative to.
        out: the folder; missing, empty, or joined before by the same settings.
        as_of: until when events are known, ms UTC; None: until the last one of each table.
        report: takes a line for what does not count, or stays as it is.

    Raises DataError for what cannot be read or joined, and then changes nothing; BusyError; OSError.
    """
    files: Any = {
        "log": True,
        "labels": {"__all__": {"events"}},
        "exposed": {"events"},
    }  # which may move, and grow
    facts = {
        "join": settings.model_dump(mode="json", exclude=files),
        "columns": columns.model_dump(mode="json"),
    }
    with WriteLock(out, "join"):
        before = _read_state(out, facts)
        tables: dict[str, JoinTable] = {}
        for name, events in {LOG: None, **settings.tables()}.items():
            seen = before.files.get(name, {})
            tables[name] = JoinTable.read(
                name, events, settings, columns, base, out, seen, report, tables.get(LOG)
            )
        known = {
            name: max(
                _find_end(name, tables[name], settings) if as_of is None else as_of, before.known.get(name, 0)
            )
            for name in settings.tables()
        }
        return _Join(settings, columns, out, tables, before, known, report).run(facts)


def _read_state(out: Path, facts: Mapping[str, Any]) -> JoinState:
    """Read what a folder was joined of. Raises DataError if that was by other settings, or by nothing."""
    path = out / STATE
    if not path.exists():
        if foreign := next((file.name for file in out.iterdir() if file.suffix == ".parquet"), None):
            raise DataError(f"{out}: holds {foreign}, which no join wrote; name another folder")
        return JoinState(dict(facts), {}, {})
    try:
        state = msgspec.json.decode(path.read_bytes(), type=JoinState)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: damaged ({error}); join into another folder") from None
    if state.settings != facts:
        raise DataError(f"{out}: was joined by other settings; restore them, or join into another folder")
    return state


def _find_end(name: str, table: JoinTable, settings: JoinSettings) -> int:
    """Until when a table has events, ms UTC. Raises DataError if it has none."""
    last = [file.last for file in table.files.values() if file.last is not None]
    if not last:
        raise DataError(
            f"{name.strip('@')}: its table has no event; say by --as-of until when there was none"
        )
    return max(last) - settings.skew // MILLISECOND


@dataclass(frozen=True)
class _Join:
    """A call whose tables are read."""

    settings: JoinSettings
    columns: JoinColumns
    out: Path
    tables: Mapping[str, JoinTable]
    before: JoinState
    known: Mapping[str, int]
    report: Report

    def run(self, facts: dict[str, Any]) -> JoinReport:
        """Write the days that are due, and what they were made of."""
        self._check_columns()
        counts = {
            name: LabelCount(sum(file.rows for _, file in self._changed(name)))
            for name in self.settings.labels
        }
        days = self._due_days()
        with scratch_folder(self.out) as staged:
            for day in days:
                self._write_day(staged / f"{_name(day)}.parquet", day, counts)
            if not self.before.files:  # killed from here on, the next call knows the days as joined ones
                self._write_state(JoinState(facts, {}, {}))
            written = [_name(day) for day in days if self._replace(staged / f"{_name(day)}.parquet")]
        sync(self.out)
        files = {
            name: {**self.before.files.get(name, {}), **table.files} for name, table in self.tables.items()
        }
        self._write_state(JoinState(facts, dict(self.known), files))
        for name, count in counts.items():
            if not any(file.rows for file in self.tables[name].files.values()):
                self.report(f"{name}: its table has no event of the kind '{self.settings.labels[name].kind}'")
            if days and count.events and not count.ones:
                what = f"none of {count.events:,} events is of a candidate of these days within the window"
                self.report(f"{name}: {what}; are the ids alike?")
        return JoinReport(written, self.settings.as_of(self.known), *self._count_waiting(), len(days), counts)

    def _write_state(self, state: JoinState) -> None:
        with atomic_file(self.out / STATE) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=1))

    def _check_columns(self) -> None:
        """Raise DataError if the log has a column that is made, or lacks the level."""
        log = self.tables[LOG]
        path, types = log.table.paths[0], log.table.types
        for name in (*self.settings.labels, LABELS_AS_OF):
            if name in types:
                raise DataError(f"{path}: has a column '{name}' already; give the label another name")
        if self.settings.exposed is not None and self.columns.level not in types:
            raise DataError(f"{path}: no column '{self.columns.level}', the level of what was shown")

    def _changed(self, name: str) -> list[tuple[str, JoinedFile]]:
        """The files of a table that the last call did not see so."""
        before = self.before.files.get(name, {})
        return [(path, file) for path, file in self.tables[name].files.items() if before.get(path) != file]

    def _due_days(self) -> list[int]:
        """The days to be written: of changed files, near to changed events, or whose labels were not known."""
        days, longest = self.tables[LOG].days, self.settings.longest // MILLISECOND
        due = {day for day in days if not self._is_written(day)}
        if self.known != self.before.known and self.before.known:
            looked = self.settings.as_of(self.before.known)
            due |= {day for day in days if (day + 1) * DAY_MS + longest > looked}
        gone: dict[int, str] = {}
        for name, table in self.tables.items():
            before = self.before.files.get(name, {})
            for path, file in self._changed(name):
                due |= self._reached(name, {*file.days, *(before[path].days if path in before else ())})
            for path in before.keys() - table.files.keys():
                gone |= dict.fromkeys(self._reached(name, before[path].days), path)
        for day in sorted(due & gone.keys()):
            self.report(
                f"{_name(day)}: stays as it is, since {self.out / gone[day]} is gone, of which it was made"
            )
        return sorted(day for day in due - gone.keys() if day in days or self._is_written(day))

    def _is_written(self, day: int) -> bool:
        return (self.out / f"{_name(day)}.parquet").exists()

    def _reached(self, name: str, days: Iterable[int]) -> set[int]:
        """The days whose labels depend on rows of a table on some days."""
        before, after = self.settings.longest // MILLISECOND, self.settings.skew // MILLISECOND
        if name == LOG:  # a request may take an event from another one
            before = after = 0 if self.settings.credit == "all" else before + after
        return {
            one
            for day in days
            for one in range(
                (day * DAY_MS - before) // DAY_MS, ((day + 1) * DAY_MS - 1 + after) // DAY_MS + 1
            )
        }

    def _write_day(self, path: Path, day: int, counts: Mapping[str, LabelCount]) -> None:
        """Write a day to a path; nothing if it has no rows."""
        log, key = self.tables[LOG], [*self.columns.key.values()]
        if day not in log.days:
            return
        begin, end = day * DAY_MS, (day + 1) * DAY_MS - 1
        join = DayJoin(self.settings, key, begin, end, log.select)
        events = {name: self.tables[name].select for name in self.settings.tables()}
        made = make_labels(self.settings, self.columns, self.known)
        kept = [*dict.fromkeys([*log.table.types, *self.settings.labels, LABELS_AS_OF])]
        with plain_names():
            found = log.table.collect(find_labels(join, events))
            rows = log.rows(begin, end).join(found.lazy(), on=[*key, ITEM], how="left", maintain_order="left")
            _sink(rows.with_columns(made).select(kept), path, log)
        labels = pl.scan_parquet(path)
        for name, count in counts.items():
            ones, known = labels.select(pl.col(name).sum(), n=pl.col(name).count()).collect().row(0)
            count.ones += ones
            count.zeros += known - ones

    def _replace(self, staged: Path) -> bool:
        """Put a day in its place. Returns whether it differs from what was there."""
        path = self.out / staged.name
        if not staged.exists():  # its rows are gone from a file that changed
            path.unlink()
            return True
        if path.exists() and filecmp.cmp(staged, path, shallow=False):
            return False
        sync(staged)
        staged.replace(path)
        return True

    def _count_waiting(self) -> tuple[int, int | None]:
        """Count the rows whose labels are not known yet. Returns when they will be, too."""
        since = self.settings.as_of(self.known) - self.settings.longest // MILLISECOND
        young = [path for path in self.out.glob("*.parquet") if path.stem >= f"{from_ms(since):%Y-%m-%d}"]
        if not young:
            return 0, None
        time = self.tables[LOG].table.moment(self.columns.time)
        counted = pl.scan_parquet(young).select(time.alias(TIME)).filter(pl.col(TIME) > since)
        rows, last = counted.select(n=pl.len(), last=pl.col(TIME).max()).collect(engine="streaming").row(0)
        return rows, None if last is None else last + self.settings.longest // MILLISECOND


def _name(day: int) -> str:
    return f"{from_ms(day * DAY_MS):%Y-%m-%d}"


def _sink(frame: pl.LazyFrame, path: Path, log: JoinTable) -> None:
    """Write rows in order, in pieces. Raises DataError for values that cannot be read."""
    try:
        with panics_as_errors():
            frame.sink_parquet(path, row_group_size=ROW_GROUP, maintain_order=True)
    except (pl.exceptions.PolarsError, PanicError) as error:
        raise log.table.unreadable(error) from None
