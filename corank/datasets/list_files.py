"""The files of a log of one's own and of its tables: Parquet, CSV or TSV, whose types are inferred of all rows."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report
from corank.data.tables import find_bytes_fault, separator_of
from corank.datasets.importer import read_schema, refuse_rows, unreadable

_ENDINGS = {"Parquet": (".parquet",), "CSV": (".csv", ".csv.gz", ".tsv", ".tsv.gz")}
_TWICE = re.compile(r"(.*)_duplicated_\d+")
"""How polars names the second of two columns of one name."""
_UNITS = {"seconds": (10**8, 10**6, 1), "milliseconds": (10**11, 10**3, 1)}
_UNITS |= {"microseconds": (10**14, 1, 1), "nanoseconds": (10**17, 1, 10**3)}
"""Unit of whole numbers since 1970 → the least that is taken as such, of 1973, and what makes microseconds of it."""
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class ListFiles:
    """Files of the same columns, in order."""

    frames: Mapping[Path, pl.LazyFrame]
    types: pl.Schema

    @property
    def first(self) -> Path:
        """The file that errors about all of them name."""
        return next(iter(self.frames))

    @property
    def rows(self) -> pl.LazyFrame:
        """The rows of all."""
        return pl.concat(self.frames.values())


def read_files(source: Path) -> ListFiles:
    """Open a file, or the files of a folder. Raises DataError if they cannot be read, or are not alike."""
    paths = _find(source)
    schemas = {path: _infer(path) if _is_csv(path) else read_schema(path, _scan(path)) for path in paths}
    first = schemas[paths[0]]
    for path, types in schemas.items():
        if twice := next((found[1] for name in types if (found := _TWICE.fullmatch(name))), None):
            raise DataError(f"{path}: two columns have the name '{twice}'; rename one")
        if list(types) != list(first) or (types != first and not _is_csv(path)):
            raise DataError(f"{path}: its columns are not those of {paths[0]}")
    if _is_csv(paths[0]):
        first = pl.Schema({name: _agree([types[name] for types in schemas.values()]) for name in first})
    frames = {path: _scan(path, first) for path in paths}
    lists = {name: pl.List(kind.inner) for name, kind in first.items() if isinstance(kind, pl.Array)}
    frames = {path: frame.cast(lists) for path, frame in frames.items()}  # type: ignore[arg-type]
    files = ListFiles(frames, pl.Schema({**first, **lists}))
    with readable(source):
        if not files.rows.select(pl.len()).collect(engine="streaming").item():
            raise DataError(f"{source}: no rows")
    return files


@contextmanager
def readable(source: Path) -> Iterator[None]:
    """Raise DataError, with the line of a CSV file, where the files of a block cannot be read."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise unreadable(_find(source), error) from None


def _find(source: Path) -> list[Path]:
    """The files of a folder, or the one that is given. Raises DataError."""
    if not source.is_dir():
        return [source]
    found = {
        form: sorted(path for path in source.iterdir() if path.name.lower().endswith(endings))
        for form, endings in _ENDINGS.items()
    }
    if not any(found.values()):
        raise DataError(f"{source}: no Parquet, CSV or TSV file in this folder")
    if all(found.values()):
        raise DataError(f"{source}: files of Parquet and of CSV in this folder; leave those of the log alone")
    return next(filter(None, found.values()))


def _is_csv(path: Path) -> bool:
    return path.name.lower().endswith(_ENDINGS["CSV"])


def _scan(path: Path, types: pl.Schema | None = None) -> pl.LazyFrame:
    """Open a file; one of CSV has columns of the types that `_infer` found."""
    if _is_csv(path):
        return pl.scan_csv(path, glob=False, separator=separator_of(path), try_parse_dates=True, schema=types)
    return pl.scan_parquet(path, glob=False)


def _infer(path: Path) -> pl.Schema:
    """Find the types of the columns of a CSV file: those of its first rows, unless a later row does not fit.

    Polars infers the same types of all rows a hundred times as slowly.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; the import needs it")
    if fault := find_bytes_fault(str(path)):
        raise DataError(fault)
    scan = partial(pl.scan_csv, path, glob=False, separator=separator_of(path))
    first = scan(try_parse_dates=True, infer_schema_length=10_000)
    tried = {name: _WIDER.get(kind, [kind]) for name, kind in read_schema(path, first).items()}
    fits = (
        (pl.col(name).is_null() | _parse(pl.col(name), kind).is_not_null()).all().alias(f"{n} {name}")
        for name, kinds in tried.items()
        for n, kind in enumerate(kinds)
    )
    try:
        found = scan(infer_schema=False).select(fits).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable([path], error) from None
    fit = found.row(0, named=True)
    chosen = {
        name: next((kind for n, kind in enumerate(kinds) if fit[f"{n} {name}"]), pl.String())
        for name, kinds in tried.items()
    }
    return pl.Schema(chosen)


_WIDER: Mapping[pl.DataType, list[pl.DataType]] = {pl.Int64(): [pl.Int64(), pl.Int128(), pl.Float64()]}
"""What else whole numbers of the first rows may turn out to be; all other types turn out to be text."""


def _parse(text: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Read texts as values of a type that CSV files have; null if one is none."""
    if kind == pl.Boolean:
        return text.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    if isinstance(kind, pl.Datetime):
        return text.str.to_datetime(time_unit="us", time_zone=kind.time_zone, strict=False)
    return text.str.to_date(strict=False) if kind == pl.Date else text.cast(kind, strict=False)


def _agree(kinds: list[pl.DataType]) -> pl.DataType:
    """The type of a column of CSV files; whole numbers of more than 64 bits are ids, which are text."""
    if len(set(kinds)) == 1:
        return pl.String() if kinds[0] == pl.Int128 else kinds[0]
    return pl.Float64() if all(kind.is_numeric() for kind in kinds) else pl.String()


def is_list(kind: pl.DataType) -> bool:
    """Whether values of a type are lists."""
    return isinstance(kind, pl.List | pl.Array)


def require_column(path: Path, types: pl.Schema, name: str, what: str, listed: bool = False) -> None:
    """Raise DataError if a column is missing, or is no list as it should be.

    Args:
        path: the file, for the message.
        types: its columns.
        name: the column.
        what: the option that names it.
        listed: whether it should hold lists.
    """
    if name not in types:
        near = difflib.get_close_matches(name, list(types), n=3)
        hint = f"near ones: {', '.join(near)}" if near else f"it has {', '.join(types)}"
        raise DataError(f"{path}: no column '{name}' ({what}); {hint}")
    if listed and not is_list(types[name]):
        raise DataError(f"{path}: column '{name}' ({what}) is {types[name]}; expected lists")


def too_large(types: pl.Schema, names: Sequence[str]) -> list[tuple[str, pl.Expr, str]]:
    """What `refuse_rows` is to find among ids, or lists of ids: whole numbers that do not fit into 64 bits."""
    faults = []
    for name in names:
        kind = types[name]
        values = pl.col(name).list.max() if isinstance(kind, pl.List) else pl.col(name)
        if (kind.inner if isinstance(kind, pl.List) else kind) in (pl.UInt64, pl.Int128, pl.UInt128):
            faults.append((name, values > _LARGEST, "ids of 64 bits; write larger ones as text"))
    return faults


def as_times(files: ListFiles, name: str, report: Report) -> ListFiles:
    """Read a column as times: datetimes and dates as they are, texts, and numbers since 1970.

    Raises:
        DataError: it holds something else.
    """
    kind, column = files.types[name], pl.col(name)
    if isinstance(kind, pl.Datetime | pl.Date):
        return files
    if kind == pl.String:
        read = column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    elif kind.is_numeric():
        read = _since_1970(files, name, report)
    else:
        raise DataError(f"{files.first}: column '{name}' (--time) is {kind}; expected times")
    for path, frame in files.frames.items():
        fault = column.is_not_null() & read.is_null()
        refuse_rows(path, frame, [(name, fault, "times of one form, such as 2026-04-30 08:15:00")])
    frames = {path: frame.with_columns(read.alias(name)) for path, frame in files.frames.items()}
    return replace(files, frames=frames, types=pl.Schema({**files.types, name: pl.Datetime("us", "UTC")}))


def _since_1970(files: ListFiles, name: str, report: Report) -> pl.Expr:
    """Make times of numbers, by the unit that they can be of. Raises DataError if there is none."""
    column = pl.col(name).cast(pl.Int64) if files.types[name].is_integer() else pl.col(name)
    low, high = files.rows.select(low=column.min(), high=column.max()).collect().row(0)
    for unit, (least, times, by) in _UNITS.items():
        if low is not None and least <= low and high < least * 1000:
            report(f"time: '{name}' is read as {unit} since 1970")
            return (column * times // by).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    raise DataError(
        f"{files.first}: column '{name}' (--time) holds {low} to {high}; expected times, or seconds or milliseconds "
        "since 1970; without --time the order of rows counts"
    )
