"""The log of an import of lists: its files checked row by row, exposures grouped to impressions, and written."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report
from corank.datasets.exposures import Exposures
from corank.datasets.importer import TENTHS, ImportedSplit, refuse_rows, split_by_days
from corank.datasets.list_columns import drop_repeats, has_repeats, list_along
from corank.datasets.list_files import (
    ListFiles,
    as_times,
    is_list,
    read_files,
    require_column,
    too_large,
)
from corank.datasets.list_nulls import NullTexts
from corank.datasets.list_roles import IMPRESSION, TIME, ListRoles

BEGIN = datetime(2000, 1, 1)
"""The time of the first impression of a log without times; the others are a minute apart."""


@dataclass(frozen=True)
class LogFacts:
    """What a log holds."""

    types: pl.Schema
    """Of the impressions."""
    users: bool
    """Whether the log names users; each request is its own otherwise."""
    times: bool
    """Whether the log has times; the order of rows counts otherwise."""
    impressions: int
    candidates: int
    split: ImportedSplit


def _check_names(path: Path, types: pl.Schema, columns: ListRoles) -> None:
    """Raise DataError if a column has a name that the import gives."""
    if columns.item in types and columns.item != columns.candidates:
        raise DataError(f"{path}: column '{columns.item}' has the candidates' name (--item); rename it")
    if IMPRESSION in types and not (columns.request and columns.user):
        raise DataError(
            f"{path}: column 'impression' has the name that rows are numbered by; name it as --request, or rename it"
        )
    if TIME in types and not columns.time:
        raise DataError(f"{path}: column 'time' has the name of times; name it as --time, or rename it")


def _check_elements(path: Path, types: pl.Schema, columns: ListRoles) -> None:
    """Raise DataError for lists of what is no item or no label."""
    for name in columns.names_of("labels"):
        require_column(path, types, name, "--labels", listed=True)
        inner = types[name].inner  # type: ignore[attr-defined]
        if not (inner.is_numeric() or inner == pl.Boolean):
            raise DataError(f"{path}: column '{name}' (--labels) has lists of {inner}; expected 0 and 1")
    text = None
    items = [
        ("--candidates", columns.candidates),
        *(("--chosen", name) for name in columns.names_of("chosen")),
    ]
    for option, name in (*items, *([("--history", columns.history)] if columns.history else [])):
        require_column(path, types, name, option, listed=True)
        inner = types[name].inner  # type: ignore[attr-defined]
        is_text = inner == pl.String or isinstance(inner, pl.Categorical | pl.Enum)
        if not (inner.is_integer() or is_text):
            raise DataError(f"{path}: column '{name}' ({option}) lists {inner}, not whole numbers or text")
        if text not in (None, is_text):
            raise DataError(
                f"{path}: column '{name}' ({option}) has lists of {inner}, and '{columns.candidates}' of "
                f"{types[columns.candidates].inner}; write both alike"  # type: ignore[attr-defined]
            )
        text = is_text


def _check_exposures(path: Path, types: pl.Schema, columns: ListRoles) -> None:
    """Raise DataError for candidates of another type, and for columns of lists where a row is an exposure."""
    kind = types[columns.candidates]
    if not (kind.is_integer() or kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)):
        raise DataError(
            f"{path}: column '{columns.candidates}' (--candidates) is {kind}; expected whole numbers or text, or lists"
        )
    if columns.chosen:
        raise DataError(
            f"{path}: column '{columns.candidates}' (--candidates) is no list, so that a row is an exposure; name "
            f"columns of 0 and 1 as --labels in place of --chosen {columns.chosen}"
        )
    if columns.history:
        require_column(path, types, columns.history, "--history", listed=True)
    for name in columns.names_of("along"):
        require_column(path, types, name, "--along")
    for name in columns.names_of("labels"):
        require_column(path, types, name, "--labels")
        if not (types[name].is_numeric() or types[name] == pl.Boolean):
            raise DataError(f"{path}: column '{name}' (--labels) is {types[name]}; expected 0 and 1")


def read_log(
    source: Path, columns: ListRoles, nulls: NullTexts, work: Path, report: Report
) -> tuple[pl.LazyFrame, ListRoles]:
    """Check the rows of the files, one after the other, and group those of exposures, with files in `work`.

    Returns also the columns, with the item's.
    """
    files = nulls.settle(read_files(source), columns.ids)
    labels, request = columns.names_of("labels"), columns.names_of("request")
    require_column(files.first, files.types, columns.candidates, "--candidates")
    options = [(columns.user, "--user"), (columns.time, "--time"), *((name, "--request") for name in request)]
    keys = {name: option for name, option in options if name}
    for name, option in keys.items():
        require_column(files.first, files.types, name, option)
    files = as_times(files, columns.time, report) if columns.time else files
    lists = is_list(files.types[columns.candidates])
    columns = columns.of_rows(lists)
    _check_names(files.first, files.types, columns)
    faults = [
        (name, pl.col(name).is_null(), "a value in every row; leave the others out, or write an id")
        for name in keys
    ]
    faults += too_large(files.types, [*keys, columns.candidates])
    (_check_elements if lists else _check_exposures)(files.first, files.types, columns)
    if columns.history_times:
        require_column(files.first, files.types, columns.history_times, "--history-times", listed=True)
        events = pl.col(columns.history).list.len().fill_null(0)
        unlike = pl.col(columns.history_times).list.len().fill_null(0) != events
        faults.append((columns.history_times, unlike, f"a list as long as '{columns.history}'"))
    faults += _list_faults(columns, labels) if lists else _exposure_faults(columns, labels)
    for path, frame in files.frames.items():
        refuse_rows(path, frame, faults)
    return (files.rows if lists else _group(files, columns, source, work, report)), columns


def _group(files: ListFiles, columns: ListRoles, source: Path, work: Path, report: Report) -> pl.LazyFrame:
    """Make lists of rows of exposures."""
    moment = [columns.user, columns.time] if columns.user and columns.time else []
    exposures = Exposures(
        keys=columns.names_of("request") or moment,
        listed=[columns.candidates, *columns.names_of("labels"), *columns.names_of("along")],
        single=[name for name in (columns.user, columns.history, columns.history_times) if name],
        time=columns.time,
    )
    return exposures.group(files.rows, source, work, report)


def write_log(log: pl.LazyFrame, columns: ListRoles, out: Path, report: Report) -> LogFacts:
    """Write the impressions in order, numbered if nothing else identifies them, and timed if nothing else does."""
    types = log.collect_schema()
    row, settled = pl.col("@row").cast(pl.Int64), columns.settled
    added = [] if columns.request and columns.user else [row.alias(IMPRESSION)]
    if not columns.user:
        report("no --user: each request is its own, and nothing is known of what users did before")
    if not columns.time:
        report(f"no --time: the order of rows counts, with times a minute apart from {BEGIN:%Y-%m-%d} on")
        added.append((BEGIN + pl.duration(minutes=row)).alias(TIME))
    once = _keep_once(log, columns, report)
    once.with_row_index("@row").with_columns(added).drop("@row").sink_parquet(out)
    read = pl.scan_parquet(out)
    day = pl.col(settled.time).cast(pl.Datetime("us")).dt.date()
    days = read.group_by(day.alias("day")).len().sort("day").collect(engine="streaming").rows()
    candidates = read.select(pl.col(columns.candidates).list.len().sum()).collect().item()
    split = split_by_days(days) if columns.time else TENTHS
    return LogFacts(
        types, bool(columns.user), bool(columns.time), sum(count for _, count in days), candidates or 0, split
    )


def _keep_once(log: pl.LazyFrame, columns: ListRoles, report: Report) -> pl.LazyFrame:
    """Drop repeated candidates of an impression, since a request has one row of each."""
    repeats = log.select(has_repeats(columns.candidates).sum()).collect(engine="streaming").item()
    if not repeats:
        return log
    having = "1 impression has" if repeats == 1 else f"{repeats:,} impressions have"
    report(f"{having} a candidate twice: the clicked one is kept, or else the first")
    labels, used = columns.names_of("labels"), columns.used
    along, _, _ = list_along(log, columns.candidates, used)
    return drop_repeats(log, columns.candidates, [*labels, *along], labels[0] if labels else None)


_Faults = list[tuple[str, pl.Expr, str]]


def _list_faults(columns: ListRoles, labels: list[str]) -> _Faults:
    """What may be wrong in a row of lists."""
    items = pl.col(columns.candidates)
    length = items.list.len().fill_null(0)
    null = items.list.eval(pl.element().is_null()).list.any()
    faults = [(columns.candidates, null, "an item in every place")]
    for name in labels:
        unlike = pl.col(name).list.len().fill_null(0) != length
        faults.append((name, unlike, f"a list as long as '{columns.candidates}'"))
        other = pl.col(name).list.eval(~pl.element().cast(pl.Float64).is_in([0.0, 1.0])).list.any()
        faults.append((name, other, "0, 1, or nothing where it is unknown"))
    return faults


def _exposure_faults(columns: ListRoles, labels: list[str]) -> _Faults:
    """What may be wrong in a row of an exposure."""
    faults = [(columns.candidates, pl.col(columns.candidates).is_null(), "an item in every row")]
    other = {name: ~pl.col(name).cast(pl.Float64).is_in([0.0, 1.0]) for name in labels}
    return faults + [(name, bad, "0, 1, or nothing where it is unknown") for name, bad in other.items()]
