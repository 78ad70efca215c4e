"""A log of impressions, each a row with lists of candidates, read as a row a candidate."""

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.data.tables import Table
from corank.features.log_schema import DataSettings, ListLog
from corank.features.row_columns import ROW

LONGEST = 2**20
"""Candidates of an impression, at most: the n-th of row r is the row r · LONGEST + n of the table."""
_PLACE = "@place"


@dataclass(frozen=True)
class ExplodeLists:
    """Makes a row of every candidate, in order. An impression without candidates, or without a list, gives none."""

    settings: ListLog
    item: str
    """The name of the column of candidates afterwards."""

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Explode the rows of files. Those that are numbered in ROW are renumbered."""
        settings, names = self.settings, [self.settings.list, *self.settings.along]
        types = frame.collect_schema()
        numbered = ROW in types
        # fixed-size arrays become lists, too
        lists = [pl.col(name).cast(pl.List(types[name].inner)) for name in names]  # type: ignore[attr-defined]
        frame = frame.with_columns(lists).filter(pl.col(settings.list).list.len() > 0)
        if numbered:
            frame = frame.with_columns(pl.int_ranges(pl.col(settings.list).list.len()).alias(_PLACE))
            names = [*names, _PLACE]
        frame = frame.explode(names)
        among = pl.List(types[settings.list].inner)  # type: ignore[attr-defined]
        within = {
            name: pl.col(settings.list).is_in(pl.col(column).cast(among)).fill_null(False).cast(pl.Int8)
            for name, column in settings.members.items()
        }
        frame = frame.with_columns(**within).rename({settings.list: self.item})
        if numbered:
            frame = frame.with_columns(pl.col(ROW).cast(pl.Int64) * LONGEST + pl.col(_PLACE)).drop(_PLACE)
        return frame


def scan_log(data: DataSettings, base: Path, source: str | list[str] | None = None) -> Table:
    """Open the log of a config.

    Args:
        data: its settings.
        base: the folder that paths are relative to.
        source: other files of such a log; of lists, or with a row a candidate, as served requests have.

    Raises:
        DataError: the files cannot be read, or lists do not fit one another.
    """
    table = Table.scan("log", data.log_files if source is None else source, base)
    settings = data.log
    if not isinstance(settings, ListLog) or (source is not None and settings.list not in table.types):
        return table
    table.require([settings.list, *settings.along, *settings.members.values()])
    _check_columns(table, settings, data.item)
    return _explode(table, settings, data.item)


def _check_columns(table: Table, settings: ListLog, item: str) -> None:
    """Raise DataError for a column that holds no lists, and for names that are taken."""
    for column in [settings.list, *settings.along, *settings.members.values()]:
        if not isinstance(table.types[column], pl.List | pl.Array):
            none = ", which files of CSV cannot hold" if table.format == "csv" else ""
            raise table.unfit(column, f"lists, as data.log reads it{none}")
    for column in [*settings.members, *([item] if item != settings.list else [])]:
        if column in table.types:
            raise DataError(
                f"data.log: the files have a column '{column}' beside the lists '{settings.list}', which would be "
                f"given that name; take another one {'as data.item' if column == item else 'under members'}"
            )


def _explode(table: Table, settings: ListLog, item: str) -> Table:
    """Check that the lists of a row are of one length, and explode them. Raises DataError."""

    def length(column: str) -> pl.Expr:
        array = isinstance(table.types[column], pl.Array)
        return (pl.col(column).arr.len() if array else pl.col(column).list.len()).fill_null(0)

    candidates = length(settings.list)
    bad = {name: length(name) != candidates for name in settings.along}
    long = (candidates > LONGEST).any()
    summary = table.collect(
        table.frame.with_row_index(ROW).select(
            candidates.sum().cast(pl.Int64).alias("@sum"),
            long.alias("@long"),
            *(pl.col(ROW).filter(fault).min().alias(name) for name, fault in bad.items()),
        )
    ).row(0, named=True)
    if summary["@long"]:
        raise DataError(f"data.log: column '{settings.list}' has a list of more than {LONGEST:,} candidates")
    for name in settings.along:
        if (row := summary[name]) is not None:
            lengths = table.collect(table.frame.select(length(name), other=candidates).slice(row, 1)).row(0)
            raise DataError(
                f"data.log: row {row + 1}: column '{name}' has {lengths[0]:,} elements, '{settings.list}' "
                f"{lengths[1]:,}; lists of a row go along with one another, one element a candidate"
            )
    explode = ExplodeLists(settings, item)
    frame = explode(table.frame)
    rows = max(sum(table.row_counts), 1)
    return replace(
        table,
        frame=frame,
        types=frame.collect_schema(),
        explode=explode,
        per_row=-(-(summary["@sum"] or 0) // rows) or 1,
    )
