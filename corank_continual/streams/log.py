"""Joined candidates of a topic → Parquet files of the log, one a period of event time, whole requests only.

    FOLDER/follow-20260427T131000Z.parquet      a closed period, by its begin: complete when it has this name
    FOLDER/.follow-20260427T132000Z-3.part      rows of an open one, in parts, which no pattern `*.parquet` finds
    FOLDER/.follow.json                         LogState: offsets, how far partitions are, parts; replaced at once

All that was read before the offsets lies in the files that the state names. So a commit writes parts, then the state,
and then gives closed periods their names; a process that starts does the last step again, and removes parts that no
state names. A period closes when all partitions have passed its end by `wait`, since rows of a partition come in any
order within that. A partition that was read to its end has passed what lies as long again before the latest of the
others.

Letters: N rows.
"""

import base64
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from corank.core.errors import DataError, RequestError, StreamError
from corank.core.files import atomic_file, sync
from corank.core.reports import Report
from corank.core.time import MILLISECOND, floor_time, floor_times, from_ms, now_ms
from corank.core.types import Longs, Mask
from corank.features.log_schema import DataSettings
from corank.funnel.request import parse_time
from corank_continual.streams.messages import (
    DeadLetters,
    is_arrow,
    is_moment,
    read_arrow,
    read_id,
    read_rows,
    require_row,
)
from corank_continual.streams.metrics import FollowMetrics
from corank_continual.streams.topic import Message, TopicReader, end_offsets

STATE = ".follow.json"
BUFFER_BYTES = 64 << 20
"""Rows of open periods that are kept in memory; beyond it they are written into parts."""
FUTURE = 3_600_000
"""ms that a row may be later than the clock: one later would close all periods before it."""
EARLIEST = 946_684_800_000
"""ms UTC, the year 2000: an earlier time is in another unit, or none."""
GROUP_ROWS = 1 << 16
NEVER = -(2**62)
UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What Arrow raises for values that it has no column for."""
_JSON = msgspec.json.Decoder(msgspec.Raw)
"""Reads past a value."""


class LogState(msgspec.Struct, frozen=True):
    """What the files of a folder hold."""

    topic: str
    period: int
    """Length of periods, ms."""
    schema: str = ""
    """Of the rows, as Arrow's IPC writes it, in base64; empty before the first."""
    offsets: dict[int, int] = {}
    """By partition: the first message that the files lack."""
    passed: dict[int, int] = {}
    """By partition: the latest time of its rows, ms UTC."""
    closed: int = NEVER
    """Periods before this time are closed, ms UTC."""
    parts: dict[int, list[str]] = {}
    """By begin of an open period: the files of its rows."""
    named: dict[str, str] = {}
    """By name: the file of a period that was closed last, which gets this name."""
    count: int = 0
    """Parts that were ever written."""


@dataclass(frozen=True)
class LogRows:
    """N rows of one schema."""

    table: pa.Table
    times: Longs
    """ms UTC: (N,)."""
    origin: Longs
    """The message of each, by its place in the batch: (N,)."""

    def take(self, at: Longs) -> "LogRows":
        """Take some rows."""
        return LogRows(self.table.take(at), self.times[at], self.origin[at])


class LogSink:
    """Keeps rows by period, and writes them."""

    def __init__(
        self,
        folder: Path,
        topic: str,
        data: DataSettings,
        period: timedelta,
        wait: timedelta,
        letters: DeadLetters,
        metrics: FollowMetrics,
        report: Report,
    ) -> None:
        """
        Args:
            folder: of the log's files. The caller holds its lock.
            topic: the name of the topic.
            data: names the columns of request and time, and the time zone of periods.
            period: length of periods.
            wait: how much later than its end a period closes, by the times of rows.
            letters: take bad rows.
            metrics: counts.
            report: receives lines.

        Raises StreamError if the folder is of another topic or period.
        """
        self._folder, self._data, self._letters = folder, data, letters
        self._metrics, self._report = metrics, report
        self._period, self._zone, self._wait = period, data.timezone, wait // MILLISECOND
        self._state = self._read_state(topic)
        self._schema = _decode_schema(self._state.schema)
        self._name_closed()
        self._remove_unknown()
        self._buffer: dict[int, list[pa.Table]]
        self.offsets()
        self._last_message = time.monotonic()
        self.reader: TopicReader | None = None
        """Tells which partitions there are, and which were read to their end."""
        self._dropped: set[str] = set()

    def offsets(self) -> dict[int, int]:
        """Return where the files are, by partition; what is only in memory is read again."""
        self._buffer, self._bytes = {}, 0
        self._offsets, self._passed = {**self._state.offsets}, {**self._state.passed}
        return self._offsets

    def apply(self, messages: Sequence[Message]) -> None:
        """As `Sink.apply`: keeps rows in memory until a period is closed, or they are many. Raises StreamError."""
        self._last_message = time.monotonic()
        for rows in self._read(messages):
            self._note_passed(messages, rows)
            self._keep(messages, rows)
        self._letters.flush()
        self._offsets |= end_offsets(messages)
        if self._bytes > BUFFER_BYTES:
            self._commit(self._state.closed)

    def rest(self) -> None:
        """As `Sink.rest`: closes periods that all partitions have passed."""
        closed = self._find_closed()
        if any(begin < closed for begin in (*self._buffer, *self._state.parts)):
            self._commit(closed)

    def finish(self) -> None:
        """As `Sink.finish`: writes what is in memory."""
        if self._offsets != self._state.offsets:
            self._commit(self._state.closed)

    # Periods

    def _find_closed(self) -> int:
        """The time before which all periods can be closed, ms UTC."""
        assert self.reader is not None
        bound = max(self._passed.values(), default=NEVER) - 2 * self._wait
        if time.monotonic() - self._last_message > self._wait / 1000:
            bound = max(bound, now_ms() - self._wait)
        ends = self.reader.at_end
        passed = min(
            max(self._passed.get(p, NEVER) - self._wait, bound if p in ends else NEVER)
            for p in self.reader.partitions
        )
        return self._state.closed if passed <= NEVER else max(self._state.closed, self._begin(passed))

    def _begin(self, moment: int) -> int:
        return floor_time(moment, self._period, self._zone)

    def _note_passed(self, messages: Sequence[Message], rows: LogRows) -> None:
        partitions = np.array([message.partition() for message in messages])[rows.origin]
        for partition in np.unique(partitions).tolist():
            latest = int(rows.times[partitions == partition].max())
            self._passed[partition] = max(self._passed.get(partition, NEVER), latest)

    def _keep(self, messages: Sequence[Message], rows: LogRows) -> None:
        """Keep rows by period; late ones go into the next that is open, but parts of requests that were written."""
        begins = floor_times(rows.times, self._period, self._zone)
        late = np.flatnonzero(begins < self._state.closed)
        if len(late):
            known = self._find_written(rows.take(late))
            for n in late[known].tolist():
                error = "late, and its request is in the log without it"
                self._letters.put(
                    messages[rows.origin[n]], error, rows.table.slice(n, 1).to_pylist(maps_as_pydicts=None)[0]
                )
            self._metrics.rows.labels("late").inc(len(late) - int(known.sum()))
            kept = np.setdiff1d(np.arange(len(begins)), late[known])
            begins = np.maximum(begins, self._begin(self._state.closed))[kept]
            rows = rows.take(kept)
        for begin in np.unique(begins).tolist():
            table = rows.table.filter(pa.array(begins == begin))
            self._buffer.setdefault(begin, []).append(table)
            self._bytes += table.nbytes
        self._metrics.rows.labels("applied").inc(len(begins))
        self._metrics.open_rows.inc(len(begins))

    def _find_written(self, rows: LogRows) -> Mask:
        """Which rows are of requests that closed periods have: (N,)."""
        first = _file_name(self._begin(int(rows.times.min())))
        files = [path for path in sorted(self._folder.glob("follow-*.parquet")) if path.name >= first]
        if not files:
            return np.zeros(len(rows.times), dtype=bool)
        keys = self._data.request
        wanted = pl.from_arrow(rows.table.select(keys)).with_row_index("@n")  # type: ignore[union-attr]
        written = pl.scan_parquet(files, glob=False).select(keys).unique()
        hits = wanted.lazy().join(written, on=keys, how="semi").collect()["@n"].to_numpy()
        return np.isin(np.arange(len(rows.times)), hits)

    # Rows

    def _read(self, messages: Sequence[Message]) -> Iterable[LogRows]:
        """The rows of messages; bad ones go to the dead letters. Raises StreamError."""
        if self._schema is None:
            self._schema = self._read_newest_schema()
        arrow = [n for n, message in enumerate(messages) if is_arrow(message.value() or b"")]
        plain = sorted({*range(len(messages))} - {*arrow})
        fast = self._read_fast(messages, plain) if plain and self._schema is not None else None
        if fast is not None:
            yield fast
        elif plain:
            yield from self._read_slowly(messages, plain)
        for n in arrow:
            yield from self._read_arrow(messages, n)

    def _read_fast(self, messages: Sequence[Message], numbers: Sequence[int]) -> LogRows | None:
        """Parse messages of one JSON row each at once; None if one of them is another, or bad."""
        values = [messages[n].value() or b"" for n in numbers]
        assert self._schema is not None
        try:
            (first,) = read_rows(values[0])
            for value in values:  # one each, and none so deep that Arrow's parser would end the process
                _JSON.decode(value)
            # times that are whole ms are no text of a time
            whole = {name for name, value in require_row(first).items() if type(value) is int}
            schema = _with_whole_moments(self._schema, whole)
            options = pyarrow.json.ParseOptions(explicit_schema=schema, newlines_in_values=True)
            table = pyarrow.json.read_json(pa.BufferReader(b"\n".join(values)), parse_options=options)
            if len(table) == len(values) and not any(value.lstrip()[:1] == b"[" for value in values):
                return self._all_good(self._fit(table.combine_chunks()), np.array(numbers))
        except (*UNFIT, msgspec.MsgspecError, RecursionError, DataError):
            pass
        return None

    def _read_arrow(self, messages: Sequence[Message], n: int) -> Iterable[LogRows]:
        """Read a message of record batches at once; row by row if one of them is bad."""
        try:
            table = read_arrow(messages[n].value() or b"")
        except DataError as error:
            self._letters.put(messages[n], str(error))
            return []
        with suppress(DataError):
            if self._schema is None:
                self._schema = self._make_schema(table.schema)
            rows = self._all_good(self._fit(table), np.full(len(table), n))
            if rows is not None:
                return [rows]
        return self._read_rows(messages, [(n, row) for row in table.to_pylist()])

    def _read_slowly(self, messages: Sequence[Message], numbers: Sequence[int]) -> Iterable[LogRows]:
        """Parse messages of JSON one by one."""
        values: list[tuple[int, Any]] = []
        for n in numbers:
            try:
                values += [(n, value) for value in read_rows(messages[n].value() or b"")]
            except DataError as error:
                self._letters.put(messages[n], str(error))
        return self._read_rows(messages, values)

    def _read_rows(self, messages: Sequence[Message], values: Iterable[tuple[int, Any]]) -> Iterable[LogRows]:
        """The good ones among values, each with the number of its message."""
        rows, origin = list[dict[str, Any]](), list[int]()
        for n, value in values:
            try:
                rows.append(self._require_logged(value))
                origin.append(n)
            except DataError as error:
                self._letters.put(messages[n], str(error), value)
        if not rows:
            return []
        if self._schema is None:
            self._schema = self._make_schema(_infer_schema(rows))
        try:
            return [self._to_log_rows(rows, origin)]
        except DataError:  # of one of them
            good = list[LogRows]()
            for n, row in zip(origin, rows, strict=True):
                try:
                    good.append(self._to_log_rows([row], [n]))
                except DataError as error:
                    self._letters.put(messages[n], str(error), row)
            return good

    def _require_logged(self, value: Any) -> dict[str, Any]:
        """Return a row that a log can have, with times as ms UTC. Raises DataError for any other value."""
        row, time = require_row(value), self._data.time
        timed = {time, *(field.name for field in self._schema or () if is_moment(field.type))}
        for name in timed & row.keys():
            if isinstance(row[name], str):
                try:
                    row = row | {name: parse_time(row[name], name)}
                except RequestError as error:
                    raise DataError(str(error)) from None
        keys = (*self._data.request, time)
        if any(row.get(name) is None for name in keys):
            raise DataError(f"{', '.join(keys)}: a row needs them; this one has {', '.join(row)}")
        for name in keys:
            read_id(row, name, text=isinstance(row[name], str))
        if not EARLIEST <= row[time] <= now_ms() + FUTURE:
            why = "before 2000" if row[time] < EARLIEST else "later than the clock"
            raise DataError(f"{time}: {row[time]}, as ms since 1970 UTC, is {why}")
        return row

    def _to_log_rows(self, rows: Sequence[dict[str, Any]], origin: Sequence[int]) -> LogRows:
        """Rows in the schema of the log. Raises DataError."""
        assert self._schema is not None
        self._note_dropped(name for row in rows for name in row)
        for name in (field.name for field in self._schema if pa.types.is_integer(field.type)):
            for value in (row.get(name) for row in rows):
                if type(value) is float and not value.is_integer():  # Arrow would cut the rest off
                    raise DataError(f"{name}: expected a whole number; received {value}")
        try:
            table = pa.Table.from_pylist(
                [*rows], schema=_with_whole_moments(self._schema, {*self._schema.names})
            )
        except UNFIT as error:
            raise _misfit(error) from None
        fitting = self._fit(table)
        return LogRows(fitting, self._times(fitting), np.array(origin))

    def _note_dropped(self, columns: Iterable[str]) -> None:
        """Report columns that the log lacks, each once."""
        if self._schema is not None:
            new = {*columns} - {*self._schema.names} - self._dropped
            self._dropped |= new
            if new:
                self._report(
                    f"columns that the log's earlier files lack are left out: {', '.join(sorted(new))}"
                )

    def _fit(self, table: pa.Table) -> pa.Table:
        """A table in the schema of the log, whose times are points in time or whole ms. Raises DataError."""
        assert self._schema is not None
        self._note_dropped(table.schema.names)
        columns = []
        for field in self._schema:
            if field.name not in table.schema.names:
                columns.append(pa.nulls(len(table), field.type))
                continue
            try:
                column = table.column(field.name)
                if is_moment(field.type):
                    column = column.cast(pa.timestamp("ms"))
                    if getattr(field.type, "tz", None):
                        column = column.cast(pa.timestamp("ms", field.type.tz))
                columns.append(column.cast(field.type))
            except pa.ArrowException as error:
                raise _misfit(error, f"{field.name}: ") from None
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _all_good(self, table: pa.Table, origin: Longs) -> LogRows | None:
        """Rows, if each has a request and a time that may be."""
        if any(table.column(name).null_count for name in (*self._data.request, self._data.time)):
            return None
        times = self._times(table)
        good = not len(times) or (times.min() >= EARLIEST and times.max() <= now_ms() + FUTURE)
        return LogRows(table, times, origin) if good else None

    def _times(self, table: pa.Table) -> Longs:
        """The times of rows, ms UTC: (N,)."""
        times = table.column(self._data.time)
        if is_moment(times.type):
            times = times.cast(pa.timestamp("ms", getattr(times.type, "tz", None)), safe=False)
        moments: Longs = times.cast(pa.int64()).to_numpy()
        return moments

    def _read_newest_schema(self) -> pa.Schema | None:
        """The schema of the newest file of the folder; None without one. Raises StreamError."""
        files = sorted(self._folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        if not files:
            return None
        try:
            schema = pq.read_schema(files[-1]).remove_metadata()
            self._require_keys(schema)
        except (pa.ArrowException, DataError) as error:
            raise StreamError(f"{files[-1]}: the log goes on in its form: {error}") from None
        return schema

    def _make_schema(self, first: pa.Schema) -> pa.Schema:
        """The schema of a log that begins, by that of its first rows. Raises DataError."""
        at = first.get_field_index(self._data.time)
        if at >= 0 and pa.types.is_integer(first.field(at).type):
            first = first.set(at, pa.field(self._data.time, pa.timestamp("ms")))
        schema = pa.schema([field for field in first if _is_storable(field)])
        self._require_keys(schema)
        return schema

    def _require_keys(self, schema: pa.Schema) -> None:
        """Raise DataError unless a schema has a request and a time."""
        lacking = [name for name in (*self._data.request, self._data.time) if name not in schema.names]
        if lacking:
            raise DataError(
                f"no column {', '.join(lacking)}, which the config names; there are {', '.join(schema.names)}"
            )
        kind = schema.field(self._data.time).type
        if not (is_moment(kind) or pa.types.is_integer(kind)):
            raise DataError(f"{self._data.time}: expected points in time or whole ms; there are {kind}")

    # Files

    def _commit(self, closed: int) -> None:
        """Write what is in memory, then the state, and name the periods before `closed`. Raises OSError."""
        parts, count = {begin: [*names] for begin, names in self._state.parts.items()}, self._state.count
        for begin, tables in self._buffer.items():
            count += 1
            name = f".{Path(_file_name(begin)).stem}-{count}.part"
            table = pa.concat_tables(tables).sort_by(self._data.time)
            with atomic_file(self._folder / name) as partial:
                pq.write_table(table, partial, compression="zstd")
            parts.setdefault(begin, []).append(name)
        named: dict[str, str] = {}
        for begin in sorted(begin for begin in parts if begin < closed):
            named[_file_name(begin)] = self._merge(begin, parts.pop(begin))
            self._metrics.periods.inc()
        self._state = msgspec.structs.replace(
            self._state,
            schema=_encode_schema(self._schema),
            offsets=self._offsets,
            passed=self._passed,
            closed=closed,
            parts=parts,
            named=named,
            count=count,
        )
        with atomic_file(self._folder / STATE) as partial:
            partial.write_bytes(msgspec.json.encode(self._state))
        self.offsets()
        self._metrics.commits.inc()
        self._name_closed()
        self._remove_unknown()
        rows = (pq.read_metadata(self._folder / name).num_rows for names in parts.values() for name in names)
        self._metrics.open_rows.set(sum(rows))

    def _merge(self, begin: int, parts: Sequence[str]) -> str:
        """Write the parts of a period into one file, if they are several. Returns its name."""
        if len(parts) == 1:
            return parts[0]
        name = f".{Path(_file_name(begin)).stem}.part"
        with (
            atomic_file(self._folder / name) as partial,
            pq.ParquetWriter(partial, pq.read_schema(self._folder / parts[0]), compression="zstd") as writer,
        ):
            for part in parts:
                with pq.ParquetFile(self._folder / part) as file:
                    for batch in file.iter_batches(GROUP_ROWS):
                        writer.write_batch(batch)
        return name

    def _name_closed(self) -> None:
        """Give closed periods their names, if that was not done."""
        for name, part in self._state.named.items():
            with suppress(FileNotFoundError):  # it has its name
                (self._folder / part).rename(self._folder / name)
        if self._state.named:
            sync(self._folder)

    def _remove_unknown(self) -> None:
        """Remove parts that the state does not name: of a commit that was cut short, or of closed periods."""
        known = {name for names in self._state.parts.values() for name in names}
        for path in self._folder.glob(".follow-*.part"):
            if path.name not in known:
                path.unlink()

    def _read_state(self, topic: str) -> LogState:
        path, length = self._folder / STATE, self._period // MILLISECOND
        try:
            state = msgspec.json.decode(path.read_bytes(), type=LogState)
        except FileNotFoundError:
            return LogState(topic, length)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StreamError(
                f"{path}: damaged ({error}); restore it, or follow into another folder"
            ) from None
        if (state.topic, state.period) != (topic, length):
            raise StreamError(
                f"{path}: the folder follows topic {state.topic} by periods of {state.period // 1000:,} s; received "
                f"{topic} and {length // 1000:,} s; name another folder"
            )
        return state


def _file_name(begin: int) -> str:
    """The name of a period's file."""
    return f"follow-{from_ms(begin):%Y%m%dT%H%M%SZ}.parquet"


def _infer_schema(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """The types of rows; of a column that mixes types, that of the first value that has one."""
    fields = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if row.get(name) is not None]
        for tried in (values, *([value] for value in values)):
            with suppress(*UNFIT):
                fields.append(pa.field(name, pa.array(tried).type))
                break
    return pa.schema(fields)


def _is_storable(field: pa.Field) -> bool:
    """Whether Parquet has a column's type, which is known."""
    try:
        pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
    except pa.ArrowException:
        return False
    return not pa.types.is_null(field.type)


def _with_whole_moments(schema: pa.Schema, names: Collection[str]) -> pa.Schema:
    """A schema in which points in time, of some columns, are whole ms."""
    return pa.schema(
        [pa.field(f.name, pa.int64()) if f.name in names and is_moment(f.type) else f for f in schema]
    )


def _misfit(error: Exception, where: str = "") -> DataError:
    first_line = str(error).partition("\n")[0]
    return DataError(f"{where}does not fit the log's earlier rows: {first_line}")


def _encode_schema(schema: pa.Schema | None) -> str:
    return "" if schema is None else base64.b64encode(schema.serialize().to_pybytes()).decode()


def _decode_schema(text: str) -> pa.Schema | None:
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text))) if text else None
