"""The user's tables: their files, and ranges of their rows, of which a task reads one in bounded memory.

The faults of CSV files are named by line here, since polars takes NUL bytes and a header in another encoding as they
are, and says neither file nor line of a row that it cannot read. Compressed files, and those at a URL, are left to it.
"""

import csv
import difflib
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate
from operator import methodcaller
from pathlib import Path
from typing import Any, Self

import polars as pl
import polars.selectors as cs

from corank.core.errors import DataError
from corank.core.formatting import shorten
from corank.core.objects import ObjectUrl, find_objects, is_object_url, is_url
from corank.core.panics import PanicError, panics_as_errors
from corank.core.time import NEVER
from corank.data.table_formats import find_format, plain_name, scan_versions
from corank.features.log_schema import FROM, ID, RECORDED, ROW


@dataclass(frozen=True)
class SourceFile:
    """A file of a table."""

    path: str
    """Absolute, or a URL; of a table of a lakehouse with the snapshot."""
    version: tuple[int, int | str] | None
    """Bytes, and the time of change in ns or an object's etag; None if it is not known."""

    def name(self, base: Path) -> str:
        """Its path, relative to a folder, so that a project's folder may move, or its URL; without a snapshot."""
        path = plain_name(self.path)
        return path if is_url(path) else os.path.relpath(path, base)


def find_source_files(source: str | list[str], base: Path) -> list[SourceFile]:
    """List the files of a table. Globs of paths and of object stores, and tables of a lakehouse, are expanded.

    Other URLs stay as they are.

    Args:
        source: paths, relative to `base`, or URLs.
        base: a folder.

    Raises DataError, StorageError if a file does not exist.
    """
    files: list[SourceFile] = []
    for part in [source] if isinstance(source, str) else source:
        if (form := find_format(part)) is not None:
            files += [SourceFile(path, version) for path, version in form.list_files(part, base).items()]
        elif is_object_url(part):
            objects = find_objects(ObjectUrl.parse(part))
            files += [
                SourceFile(str(url), (entry.size, entry.revision.etag or entry.revision.version or ""))
                for url, entry in objects
            ]
        elif is_url(part):
            files.append(SourceFile(part, None))
        else:
            stats = {path: path.stat() for path in _expand(part, base)}
            files += [SourceFile(str(path), (s.st_size, s.st_mtime_ns)) for path, s in stats.items()]
    return files


def _expand(part: str, base: Path) -> list[Path]:
    """List the files of a path or a glob. Raises DataError if there is none."""
    path = base.absolute() / part
    try:
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        with closing(match for match in found) as matches:  # an error leaves a folder open otherwise
            here = [path] if path.is_file() else sorted(match for match in matches if match.is_file())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{shorten(str(path), 300)}: cannot be read: {reason}") from None
    if not here:
        hint = f"it is a folder; write {part.rstrip('/')}/*.parquet" if path.is_dir() else "check the path"
        raise DataError(f"{path}: no such file ({hint})")
    return here


BLOCK = 1 << 24
"""Bytes of whole lines that are checked at a time, about."""
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x9c", b"x\xda")
"""First bytes of files of gzip, zstd and zlib."""
_UNFIT = re.compile(
    r"could not parse `(.*)` as dtype `(\w+)` at column '(.*?)' \(column number (\d+)\)", re.DOTALL
)
_TYPES = {"i64": "whole numbers", "f64": "numbers", "bool": "true or false", "date": "dates"}


def find_bytes_fault(path: str) -> str | None:
    """Find the first line of a CSV file that is no text in UTF-8. Returns the error message; None if all is text.

    Raises OSError.
    """
    if not _is_plain(path):
        return None
    first = 1
    with Path(path).open("rb") as file:
        while lines := file.readlines(BLOCK):
            if _find_odd_byte(b"".join(lines)):
                n, odd = next(
                    (n, odd) for n, line in enumerate(lines, first) if (odd := _find_odd_byte(line))
                )
                return f"{path}: line {n} has {odd}; save the file as text in UTF-8"
            first += len(lines)
    return None


def _find_odd_byte(text: bytes) -> str | None:
    if 0 in text:
        return "a NUL byte"
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"the byte 0x{text[error.start]:02x}, which is no UTF-8"
    return None


def find_row_fault(paths: Iterable[str], error: str) -> str | None:
    """Find the first row of CSV files that does not fit, after polars could not read them.

    Args:
        paths: the files.
        error: the message of polars.

    Returns the error message with file, line and reason; None if no row explains it.
    """
    unfit = _UNFIT.search(error)
    for path in filter(_is_plain, paths):
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows, line = csv.reader(file, strict=True, delimiter=separator_of(Path(path))), 1
            try:
                width = len(next(rows, ()))
                while True:
                    line = rows.line_num + 1
                    if fault := _describe_row(next(rows), width, unfit):
                        return f"{path}: line {line}{fault}"
            except csv.Error:
                return f"{path}: line {line}: a quote is not closed, or another stands within it"
            except StopIteration:
                continue
    return None


def _describe_row(row: list[str], width: int, unfit: "re.Match[str] | None") -> str | None:
    """The end of the message on a row, if it is the one that was not read."""
    if len(row) > width:
        return f" has {len(row)} fields, and the first line {width}; quote text that holds a comma"
    if unfit is None or row[int(unfit[4]) - 1 :][:1] != [unfit[1]]:
        return None
    value, kind = shorten(repr(unfit[1])), f"{_TYPES.get(unfit[2], 'values')} ({unfit[2]})"
    return f": column '{unfit[3]}' holds {value}, and {kind} before; write one type of values"


def separator_of(path: Path) -> str:
    """What separates the fields of a file of CSV or TSV."""
    return "\t" if ".tsv" in path.name.lower() else ","


def _is_plain(path: str) -> bool:
    """Whether a file is on this machine and is not compressed."""
    if is_url(path):
        return False
    with Path(path).open("rb") as file:
        return not file.read(4).startswith(_COMPRESSED)


LAKE = "lakehouse"
"""The format of a table's data files that only its metadata explain."""
_ENDINGS = {"parquet": (".parquet", ".pq"), "csv": (".csv",), "feather": (".feather", ".arrow", ".ipc")}
TABLE_ENDINGS = tuple(end for ends in _ENDINGS.values() for end in ends)
"""Of names of files of tables."""


def scan_files(form: str, paths: list[str], nulls: Sequence[str] = ()) -> pl.LazyFrame:
    """Scan files of one format that `Table.scan` supports; `nulls` are texts of missing values."""
    remote = any(is_url(path) and not is_object_url(path) for path in paths)  # not expanded yet
    if form == "csv":
        return pl.scan_csv(
            paths,
            glob=remote,
            try_parse_dates=True,
            infer_schema_length=10_000,
            null_values=list(nulls) or None,
        )
    if form == LAKE:
        frame = scan_versions(paths)
    else:
        frame = pl.scan_parquet(paths, glob=remote) if form == "parquet" else pl.scan_ipc(paths, glob=remote)
    texts = cs.string() | cs.categorical() | cs.enum()
    return frame.with_columns(pl.when(~texts.cast(pl.String).is_in(nulls)).then(texts)) if nulls else frame


_TOO_LARGE = re.compile(r"conversion from `\w+` to `i64` failed in column '(.*?)' .*?: \[([^],\s]*)")
VALID_FROM = "valid_from"
"""An optional column of items and users: the time from which a row holds."""
RECORDED_AT = "recorded_at"
"""An optional column of items and users: the time at which a row was written; nobody knew it before."""


RowStep = Callable[[pl.LazyFrame], pl.LazyFrame]
"""Keeps some rows, in their order, or makes several of one, and decides of each without the others. To be pickled."""


IdColumn = Callable[[pl.Series], pl.Series]
"""Looks the values of a column up by the ids of rows. To be pickled."""


@dataclass(frozen=True)
class Table:
    """A table that is read lazily."""

    name: str
    """Its key in the config, for messages."""
    frame: pl.LazyFrame
    types: pl.Schema
    format: str
    paths: tuple[str, ...] = ()
    """The files, in order."""
    steps: tuple[RowStep, ...] = ()
    """The changes made to the rows of the files."""
    explode: RowStep | None = None
    """Makes several rows of a row of the files, before the steps; None if each is one."""
    per_row: int = 1
    """Rows that are made of a row of the files, on average, rounded up."""
    beside: Mapping[str, IdColumn] = field(default_factory=dict)
    """Columns in separate files; `types` has them, too, but not `frame`."""
    nulls: tuple[str, ...] = ()
    """Texts that stand for missing values."""

    @classmethod
    def scan(cls, name: str, source: str | list[str], base: Path, nulls: Sequence[str] | None = None) -> Self:
        """Open a table of Parquet, CSV or Feather files, by their endings. Raises DataError if that fails."""
        paths = [file.path for file in find_source_files(source, base)]
        lower = [path.lower() for path in paths]
        form = next((f for f, ends in _ENDINGS.items() if all(path.endswith(ends) for path in lower)), None)
        if any(map(find_format, paths)):
            form = LAKE if all(map(find_format, paths)) else None
        if form is None:
            endings = ", ".join(TABLE_ENDINGS)
            raise DataError(
                f"data.{name}: expected files of one format, ending in {endings}, or tables of a lakehouse alone; "
                f"received {', '.join(paths[:3])}"
            )
        frame = scan_files(form, paths, nulls or ())
        try:
            if fault := next(filter(None, map(find_bytes_fault, paths)), None) if form == "csv" else None:
                raise DataError(f"data.{name}: {fault}")
            with panics_as_errors():
                types = frame.collect_schema()
                return cls(name, frame, types, form, tuple(paths), nulls=tuple(nulls or ()))
        except (pl.exceptions.PolarsError, OSError, PanicError) as error:
            raise DataError(f"data.{name}: {paths[0]} cannot be read: {_first_line(error)}") from None

    @classmethod
    def scan_arrow(cls, name: str, paths: list[Path]) -> Self:
        """Open Arrow files that corank wrote, in order."""
        files = tuple(map(str, paths))
        frame = scan_files("feather", list(files))
        return cls(name, frame, frame.collect_schema(), "feather", files)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to a worker: not the frame, as polars sends no choice of a lakehouse's files with it."""
        return {name: value for name, value in vars(self).items() if name != "frame"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Scan the files again."""
        vars(self).update(state)
        frame = self.apply(scan_files(self.format, list(self.paths), self.nulls))
        object.__setattr__(self, "frame", frame)

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Make the rows of the table of those of its files."""
        for step in [*([self.explode] if self.explode else []), *self.steps]:
            frame = step(frame)
        return frame

    def keep(self, step: RowStep) -> Self:
        """Keep some rows."""
        return replace(self, frame=step(self.frame), steps=(*self.steps, step))

    def filter(self, kept: pl.Expr) -> Self:
        """Keep the rows for which an expression is true."""
        return self.keep(methodcaller("filter", kept))

    def require(self, columns: Iterable[str]) -> None:
        """Raise DataError if a column is missing, or of whole numbers that have more than 64 bits."""
        for column in columns:
            if column not in self.types:
                near = difflib.get_close_matches(column, list(self.types), n=3)
                hint = f"near ones: {', '.join(near)}" if near else f"it has {', '.join(self.types)}"
                raise DataError(f"data.{self.name}: no column '{column}'; {hint}")
            if _innermost(self.types[column]) in (pl.Int128, pl.UInt128):
                raise DataError(
                    f"data.{self.name}: column '{column}' is {self.types[column]}; whole numbers have 64 bits at "
                    "most: write Int64, or ids as text"
                )

    def key(self, column: str) -> pl.Expr:
        """Select a column of ids: as 64-bit whole numbers, as text, or, if it holds dates or times, as it is."""
        self.require([column])
        kind = self.types[column]
        if kind.is_integer() or kind.is_float() or kind in (pl.Boolean, pl.Null):
            return pl.col(column).cast(pl.Int64)
        if kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
            return pl.col(column).cast(pl.String)
        if kind.is_temporal():
            return pl.col(column)
        raise self.unfit(column, "whole numbers or text")

    def moment(self, column: str) -> pl.Expr:
        """Select a time as ms since 1970 UTC: from datetimes (without a zone: UTC), dates, or integers in ms."""
        self.require([column])
        kind = self.types[column]
        if kind.is_integer() or kind == pl.Null:
            return pl.col(column).cast(pl.Int64)
        if kind == pl.Date:
            return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
        if isinstance(kind, pl.Datetime):
            return pl.col(column).dt.epoch("ms")
        expected = "times: datetimes, dates or whole milliseconds"
        raise self.unfit(
            column, expected + (self._text_time(column) if kind == pl.String else self.example(column))
        )

    def _text_time(self, column: str) -> str:
        """The end of a message on texts in the place of times: how they become times.

        Of a CSV file all values of a column are text if one is no time, or is written otherwise.
        """
        if self.format == "csv":
            odd = ~pl.col(column).str.contains(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
            return f"{self.example(column, odd)}; write all alike, as 2026-04-30 08:15:00, or nothing"
        convert = f"pl.col('{column}').str.to_datetime()"
        return f", not text{self.example(column)}; convert the texts first, such as by polars: {convert}"

    def since(self, column: str, begin: int) -> pl.Expr:
        """Whether a row's time is `begin`, ms UTC, or later; by the raw column, so that parts of files are skipped."""
        kind = self.types.get(column)
        if not isinstance(kind, pl.Datetime):
            return self.moment(column) >= begin
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=begin)
        if kind.time_zone is None:
            return pl.col(column) >= pl.lit(moment.replace(tzinfo=None))
        return pl.col(column) >= pl.lit(moment).dt.convert_time_zone(kind.time_zone)

    def versions(self, key: str) -> list[pl.Expr]:
        """Select what tells the rows of an item or a user apart, for `settle_versions`: ID, FROM and, if the table has
        it, RECORDED; times in ms UTC, NEVER where missing."""
        valid = self.moment(VALID_FROM).fill_null(NEVER) if VALID_FROM in self.types else pl.lit(NEVER)
        selected = [self.key(key).alias(ID), valid.alias(FROM)]
        if RECORDED_AT in self.types:
            selected.append(self.moment(RECORDED_AT).fill_null(NEVER).alias(RECORDED))
        return selected

    def unfit(self, column: str, expected: str) -> DataError:
        """Make the error for a column of the wrong type."""
        return DataError(f"data.{self.name}: column '{column}' is {self.types[column]}; expected {expected}")

    def unreadable(self, error: Exception) -> DataError:
        """Make the error for values that cannot be read, in one line."""
        fault = find_row_fault(self.paths, str(error)) if self.format == "csv" else None
        if fault is None and (large := _TOO_LARGE.search(str(error))):
            fault = (
                f"column '{large[1]}' holds {large[2]}, which does not fit into 64 bits; write ids as text"
            )
        if fault is None and self.format == LAKE and "No such file" in str(error):
            fault = (
                f"{_first_line(error)}; VACUUM, or what expires snapshots, removes the files of older ones"
            )
        if isinstance(error, PanicError):
            files = ", ".join(self.paths[:3])
            fault = f"polars fails at it ({_first_line(error)}); a file may be cut off or damaged: {files}"
        return DataError(f"data.{self.name}: {fault or _first_line(error)}")

    def example(self, column: str, where: pl.Expr | bool = True) -> str:
        """Show a value of a column, of such rows, at the end of a message; "" if all are missing."""
        values = self.collect(
            self.frame.filter(where).select(pl.col(column).drop_nulls().head(1))
        ).to_series()
        return f"; it holds {shorten(repr(values[0]))}" if len(values) else ""

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Run a query over this table, streamed. Raises DataError for values that cannot be read."""
        try:
            with panics_as_errors():
                return frame.collect(engine="streaming")
        except (pl.exceptions.PolarsError, FileNotFoundError, PanicError) as error:
            raise self.unreadable(error) from None

    @cached_property
    def row_counts(self) -> tuple[int, ...]:
        """The rows of each file, before `explode`."""
        frames = (scan_files(self.format, [path], self.nulls) for path in self.paths)
        return tuple(self.collect(frame.select(pl.len())).item() for frame in frames)

    def own(self, columns: Iterable[str]) -> list[str]:
        """Those of some columns that are not in separate files."""
        return [column for column in columns if column not in self.beside]

    def look_up(self, rows: pl.DataFrame, key: str, columns: Iterable[str]) -> pl.DataFrame:
        """Add to rows those of some columns that are in separate files, by the ids in `key`. Raises DataError."""
        beside = [self.beside[c](rows[key]).alias(c) for c in columns if c in self.beside]
        return rows.with_columns(beside) if beside else rows

    def distinct(self, column: str) -> pl.Series:
        """Read the distinct ids of a column, ascending."""
        return self.collect(self.frame.select(self.key(column)).unique()).to_series().sort()

    def collect_batches(self, frame: pl.LazyFrame, size: int) -> Iterator[pl.DataFrame]:
        """Run a query over this table, `size` rows of the result at a time. Raises DataError as `collect` does."""
        try:
            with panics_as_errors():
                yield from frame.collect_batches(chunk_size=size, lazy=True)
        except (pl.exceptions.PolarsError, PanicError) as error:
            raise self.unreadable(error) from None


def _first_line(error: Exception) -> str:
    """The message of polars, without its advice on polars calls."""
    return str(error).partition("\n")[0]


def _innermost(kind: pl.DataType) -> pl.DataType:
    """The type of the values of a list, or of lists of lists."""
    while isinstance(kind, pl.List | pl.Array):
        kind = kind.inner  # type: ignore[assignment]
    return kind


BATCH = 2**19
"""Rows read at a time."""


@dataclass(frozen=True)
class RowRange:
    """Some rows of a table, one after another."""

    paths: tuple[str, ...]
    """The files that they are in."""
    skip: int
    """Rows of the first file that come before."""
    first: int
    """The number of the first row: its position in all files of the table, whatever the ranges."""
    rows: int
    """How many they are in the files, before the table explodes or leaves out any."""

    def __str__(self) -> str:
        return f"{self.rows:,} rows from row {self.first:,}, in {', '.join(self.paths)}"

    def read(self, table: Table, columns: list[pl.Expr]) -> Iterator[pl.DataFrame]:
        """Read columns, and the number of each row as ROW, a batch at a time; one batch at least.

        Args:
            table: that of the range.
            columns: expressions over the table, each of its own name.

        Raises:
            DataError: a file cannot be read.
        """
        frame = scan_files(table.format, list(self.paths), table.nulls)
        if table.format != "csv":
            frame = frame.slice(self.skip, self.rows)
        frame = frame.with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64) + self.first)
        chosen = table.apply(frame).select(ROW, *columns)
        if self.rows * table.per_row <= BATCH:
            yield table.collect(chosen)
        else:
            yield from table.collect_batches(chosen, BATCH)


def cut_table(table: Table, size: int | None = None) -> list[RowRange]:
    """Cut a table into ranges of about `size` rows, BATCH by default; one range at least.

    A CSV file must be read from its begin, and what type its columns have depends on all files: a table of CSV files
    is one range.
    """
    ends = list(accumulate(table.row_counts))
    size = max((size or BATCH) // table.per_row, 1)
    if table.format == "csv":
        return [RowRange(table.paths, 0, 0, ends[-1])]
    ranges = []
    for first in range(0, max(ends[-1], 1), size):
        end = min(first + size, ends[-1])
        files = slice(bisect_right(ends[:-1], first), bisect_right(ends[:-1], max(end - 1, 0)) + 1)
        skip = first - (ends[files.start - 1] if files.start else 0)
        ranges.append(RowRange(table.paths[files], skip, first, end - first))
    return ranges
