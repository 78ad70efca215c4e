"""Reads tables whose rows hold from a time on."""

import polars as pl

from corank.core.errors import DataError
from corank.data.point_in_time import VersionedRows, settle_versions
from corank.data.tables import VALID_FROM, Table
from corank.data.validate import check_rows, number_checks, whole_checks
from corank.features.log_schema import FROM, ID


def read_versions(
    table: Table, key: str, columns: list[str], wanted: pl.Series, only: bool
) -> tuple[VersionedRows, pl.Series]:
    """Read the rows of `items` or `users`.

    Args:
        table: the table.
        key: its column of ids.
        columns: the features' columns.
        wanted: ids of the log, of the table's type.
        only: whether other ids than the wanted ones are left out.

    Returns:
        The rows, and the wanted ids that are not in the table, ascending.

    Raises:
        DataError: two rows of one id and time differ, an id is null, or a number is NaN or infinite.
    """
    table.require([key, *columns])
    check_rows(table, [*whole_checks(table, [key]), *number_checks(table, columns, [key])])
    kind = table.collect(table.frame.select(table.key(key)).head(0)).to_series().dtype
    if kind != wanted.dtype:
        raise table.unfit(key, f"{wanted.dtype}, as in the log")
    rows = table.frame.select(*table.versions(key), *table.own(columns))
    if only:
        rows = rows.join(pl.LazyFrame({ID: wanted}), on=ID, how="semi")
    frame = settle_versions(table.collect(rows).unique())
    if frame[ID].null_count():
        raise DataError(f"data.{table.name}: column '{key}' is null in {frame[ID].null_count()} rows")
    twice = frame.filter(frame.select(ID, FROM).is_duplicated())
    if len(twice):
        raise DataError(
            f"data.{table.name}: {key}={twice[ID].min()!r} has rows that differ; "
            f"keep one, or tell them apart by a column '{VALID_FROM}'"
        )
    absent = wanted.filter(~wanted.is_in(frame[ID].implode())).sort()
    complete = VersionedRows.complete(frame, wanted)
    return VersionedRows(table.look_up(complete.frame, ID, columns)), absent
