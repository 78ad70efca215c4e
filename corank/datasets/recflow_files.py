"""RecFlow's daily files: listed, opened, and checked before they are used."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.core.time import midnight
from corank.datasets.recflow_layout import BEGIN, COLUMNS, FLAGS, KEYS, LABELS, TIMEZONE
from corank.features.log_schema import ROW

_DAY = timedelta(days=1)
_BOUNDED = {"request_timestamp": "milliseconds", "upload_timestamp": "seconds"}


def day_files(folder: Path, begin: date, end: date) -> dict[date, Path]:
    """Find the files of the days from `begin` to `end`. Raises DataError if there are fewer than three."""
    source = folder / "all_stage"
    files: dict[date, Path] = {}
    for path in sorted(source.glob("*.feather")):
        try:
            files[date.fromisoformat(path.stem)] = path
        except ValueError:
            raise DataError(
                f"{path}: expected a name such as {BEGIN}.feather, the day of its requests"
            ) from None
    if not files:
        raise DataError(f"{source}: no Feather files; expected RecFlow's, a day each: {BEGIN}.feather, …")
    chosen = {day: path for day, path in files.items() if begin <= day <= end}
    if len(chosen) < 3:
        raise DataError(
            f"{source}: {len(chosen)} days from {begin} to {end}, of files from {min(files)} to {max(files)}; "
            "expected at least three: to train, to validate, to test"
        )
    return chosen


def scan_day(path: Path) -> pl.LazyFrame:
    """Scan the columns of a daily file, without the leading spaces that some names have. Raises DataError."""
    try:
        frame = pl.scan_ipc(path)
        types = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not readable as Feather: {str(error).splitlines()[0]}") from None
    spelt = {name.strip(): name for name in types}
    if missing := [name for name in COLUMNS if name not in spelt]:
        raise DataError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if not types[spelt[name]].is_numeric():
            raise DataError(f"{path}: column {name} is {types[spelt[name]]}; expected whole numbers")
    return frame.select(pl.col(spelt[name]).alias(name) for name in COLUMNS)


def check_day(path: Path, day: date, rows: pl.LazyFrame) -> int:
    """Count the rows. Raises DataError, which names the first value that its column cannot hold."""
    faults = {name: _faulty(name, day) for name in COLUMNS}
    first = [pl.col(ROW).filter(fault).min().alias(name) for name, fault in faults.items()]
    checks = rows.with_row_index(ROW).select(*first, pl.len().alias("height"))
    *faulty_rows, height = collect(path, checks).row(0)
    for name, row in zip(COLUMNS, faulty_rows, strict=True):
        if row is not None:
            value = collect(path, rows.select(name).slice(row, 1)).item()
            received = "nothing" if value is None else value
            wrong = f"expected {_holds(name, day)}; received {received}"
            raise DataError(f"{path}: column {name}, row {row + 1}: {wrong}")
    return int(height)


def collect(path: Path, rows: pl.LazyFrame) -> pl.DataFrame:
    """Read rows of a daily file. Raises DataError if the file is damaged."""
    try:
        return rows.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not readable as Feather: {str(error).splitlines()[0]}") from None


def _holds(name: str, day: date) -> str:
    if name in _BOUNDED:
        return f"{_BOUNDED[name]} since 1970 UTC" + (f", within a day of {day}" if name in KEYS else "")
    return "0 or 1" if name in FLAGS or name in LABELS else "a whole number"


def _faulty(name: str, day: date) -> pl.Expr:
    """Where a value is not what its column holds; keys and flags are never missing, all else may be."""
    value = pl.col(name)
    fault = value.cast(pl.Int64, strict=False).ne_missing(value)
    if name == "request_timestamp":
        # one day off is allowed: the release does not say when its days begin
        fault |= ~value.is_between(
            midnight(day - _DAY, TIMEZONE), midnight(day + 2 * _DAY, TIMEZONE), closed="left"
        )
    if name == "upload_timestamp":
        fault |= ~value.is_between(-1, 2**32)
    if name in FLAGS or name in LABELS:
        fault |= (value != 0) & (value != 1)
    if name in FLAGS or name in KEYS:
        fault |= value.is_null()
    return fault
