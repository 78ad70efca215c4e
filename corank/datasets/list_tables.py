"""The tables of items and users that go with a log; and names for features of columns that several tables have."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report
from corank.datasets.importer import refuse_rows
from corank.datasets.list_columns import free_name
from corank.datasets.list_files import read_files, readable, require_column
from corank.datasets.list_nulls import NullTexts


def write_items(source: Path, item: str, candidates: pl.Series, nulls: NullTexts, out: Path) -> pl.DataFrame:
    """Write the table of items, and return it.

    Args:
        source: its file, or a folder of files.
        item: its column of ids.
        candidates: those of the log, each once.
        nulls: what stands for nothing.
        out: the file to write.

    Raises:
        DataError: a candidate has no row, or an item has two.
    """
    table = _read(source, item, "--item", "candidates", candidates, nulls, "an item")
    if len(missing := _missing(table[item], candidates)):
        raise DataError(f"{source}: no row for {len(missing):,} candidates, such as {missing.sort()[0]!r}")
    table.write_parquet(out)
    return table


def write_users(
    source: Path, user: str, users: pl.Series, nulls: NullTexts, out: Path, report: Report
) -> pl.DataFrame:
    """Write the table of users, and return it. The features of those without a row are missing.

    Args:
        source: its file, or a folder of files.
        user: its column of ids.
        users: those of the log, each once.
        nulls: what stands for nothing.
        out: the file to write.
        report: takes a line about users without a row.

    Raises:
        DataError: no user of the log has a row, or one has two.
    """
    table = _read(source, user, "--user", "users of the log", users, nulls, "a user")
    missing = _missing(table[user], users)
    if len(missing) == len(users):
        raise DataError(f"{source}: no row for any user of the log, such as {missing.sort()[0]!r}")
    if len(missing):
        report(f"users: {len(missing):,} of {len(users):,} of the log have no row; features are missing")
    table.write_parquet(out)
    return table


def _read(
    source: Path, key: str, option: str, whose: str, ids: pl.Series, nulls: NullTexts, what: str
) -> pl.DataFrame:
    with readable(source):
        files = nulls.settle(read_files(source), {key})
    require_column(files.first, files.types, key, option)
    if files.types[key].is_integer() != ids.dtype.is_integer():
        raise DataError(
            f"{files.first}: column '{key}' is {files.types[key]}, {whose} are {ids.dtype}; write both alike"
        )
    column = pl.col(key)
    fault = column.is_null() | column.is_duplicated()
    for path, frame in files.frames.items():
        refuse_rows(path, frame, [(key, fault, f"one row of {what}")])
    with readable(source):
        table = files.rows.collect()
    if table[key].is_duplicated().any():
        twice = table.filter(column.is_duplicated())[key][0]
        raise DataError(f"{source}: {what}, {twice!r}, has rows in two files; expected one row of {what}")
    return table


def _missing(known: pl.Series, ids: pl.Series) -> pl.Series:
    """The ids that are not known."""
    kind = pl.Int64 if ids.dtype.is_integer() else pl.String
    return ids.filter(~ids.cast(kind).is_in(known.cast(kind).implode()))


def name_apart(
    tables: Mapping[str, Mapping[str, str]], kept: Collection[str], report: Report
) -> dict[str, str]:
    """Put features of several tables together; those of one name are named by their tables, `log_price`, `item_price`.

    Args:
        tables: table → feature → its settings, in the config's words.
        kept: names that stay: those of ids.
        report: takes a line about those that are named by their tables.
    """
    counts = Counter(name for lines in tables.values() for name in lines)
    taken, together, said = dict.fromkeys(counts, ""), dict[str, str](), list[str]()
    for table, lines in tables.items():
        shared = [name for name in lines if counts[name] > 1 and name not in kept]
        names = {name: free_name(f"{table}_{name}", taken) for name in shared}
        together |= {names.get(name, name): _settings(name, text, names) for name, text in lines.items()}
        said += names.values()
    if said:
        report(f"columns of one name in several tables, all kept, as {', '.join(said)}")
    return together


def _settings(name: str, settings: str, names: Mapping[str, str]) -> str:
    """The settings of a feature, some of whose table have got other names."""
    if "kind: within" in settings:
        of = settings.partition("of: ")[2].rstrip("}")
        return settings.replace(f"of: {of}", f"of: {names.get(of, of)}")
    if name not in names or "column: " in settings:
        return settings
    return f"{settings[:-1]}, column: {json.dumps(name)}}}"
