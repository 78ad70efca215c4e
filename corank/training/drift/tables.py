"""The tables of new rows as they are: columns compared with those of a run, values that no packing takes, counts."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import polars as pl

from corank.batches.sampling import SplitCounts
from corank.core.errors import DataError
from corank.core.time import FOREVER
from corank.data.column_sources import feature_columns
from corank.data.log_rows import log_splits
from corank.data.log_summary import log_checks, require_columns
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.inputs import list_inputs, name_columns
from corank.data.request_columns import Source
from corank.data.tables import Table, find_source_files
from corank.data.validate import find_faults, naming_rows, null_checks
from corank.features.log_schema import TIME, ListLog
from corank.training.checks.findings import Finding
from corank.training.checks.log_profile import count_splits
from corank.training.checks.split_rows import SPLIT, SplitRows
from corank.training.config.config import Config
from corank.training.drift.figure import DriftFigure, Verdict

HEAD = 100
"""Values of a file that are encoded to see whether its column is of the run's type."""


Difference = tuple[str, str, str, str]
"""A column, what it was, what it is, and why that differs and what to do."""


def compare_columns(
    config: Config, base: Path, packed: PackedDataset, features: Sequence[str]
) -> list[DriftFigure]:
    """Compare the columns of a config's tables that its features and the run's read alike.

    Args:
        config: the config.
        base: the folder that its relative paths begin in.
        packed: the data of the run.
        features: those that both have.

    Returns a figure for each column that differs, of the first file in which it does. Raises DataError.
    """
    log, figures = config.data.log, dict[str, DriftFigure]()
    lists = [log.list, *log.along] if isinstance(log, ListLog) else []
    named = name_columns(config.data, config.declared.features)
    named &= name_columns(packed.data, packed.schema.features)
    verdict: Verdict = "broken" if config.drift.columns else "off"
    for key, source in list_inputs(config.data, {}).items():
        name, first = key.removeprefix("data."), None
        for file in find_source_files(source, base) if name != "truth" else []:
            table, shown = (
                Table.scan(name, [file.path], base, config.data.nulls),
                file.path.rpartition("/")[2],
            )
            first = first or table
            recorded = packed.manifest.columns.get(key)  # None: the run has no such table
            differences = [] if recorded is None else [*_compare_names(table, shown, named, {*recorded})]
            differences += _compare_types(table, shown, named, first)
            differences += _find_unfit(table, shown, packed, features, lists if name == "log" else [])
            for column, before, now, reason in differences:
                figure = DriftFigure("columns", f"{name}.{column}", before, now, None, verdict)
                figures.setdefault(figure.name, figure.found(reason))
    return list(figures.values())


def _compare_names(table: Table, file: str, named: Set[str], recorded: Set[str]) -> Iterator[Difference]:
    """Columns that the run's table had and this one lacks, and the other way round."""
    for column in sorted((recorded & named) - table.types.keys()):
        reason = f"{file} lacks it, and the run was trained on it; write it again"
        yield column, "there", "missing", reason
    for column in sorted((named & table.types.keys()) - recorded):
        reason = f"{file} has it, the run's table had not; rename it, or pack and train without the run"
        yield column, "missing", "there", reason


def _compare_types(table: Table, file: str, named: Set[str], first: Table) -> Iterator[Difference]:
    """Columns that are of another type than in the first file."""
    for column in sorted(named & table.types.keys() & first.types.keys()):
        was, now = first.types[column], table.types[column]
        if was != now:
            reason = f"{file} has {now} where the first file has {was}; write all files with one type"
            yield column, str(was), str(now), reason


def _find_unfit(
    table: Table, file: str, packed: PackedDataset, features: Sequence[str], lists: Sequence[str]
) -> Iterator[Difference]:
    """Columns whose first values the run's encoders cannot take; those of `lists` have a value for each candidate."""
    schema, encoders = packed.schema, packed.encoders
    for name in features:
        column = schema.column(name)
        if packed.manifest.sources.get(name) != table.name or column not in table.own(table.types):
            continue
        head = table.collect(table.frame.select(pl.col(column).drop_nulls().head(HEAD)))[column]
        if column in lists:
            head = head.explode().drop_nulls()
        if head.dtype.is_float():
            head = head.filter(head.is_finite())  # values are judged of new rows alone
        try:
            encoders.encode(name, head)
        except DataError as error:
            kind = schema.columns()[name].dtype(encoders.fitted.get(schema.table_of(name)))
            reason = f"{file}: {error}; write it as the run's table had it"
            yield column, str(kind), str(table.types[column]), reason


def unfit_values(reason: str) -> DriftFigure:
    """Make the figure of values that cannot be packed; the reason names key, column, value and row."""
    where, _, what = reason.partition(": ")
    finding = Finding("error", where, what) if what else Finding("error", "data", reason)
    return DriftFigure("values", "tables", "fit", "unfit", None, "broken", finding)


def check_new_values(
    config: Config, log: Table, sources: Mapping[str, Source], begin: int
) -> Iterator[DriftFigure]:
    """Yield a figure for each rule that the new training rows of the log break; of each the first row is named.

    Args:
        config: the config.
        log: its log.
        sources: feature → the table that its column is read from.
        begin: when the new rows begin, ms UTC.
    """
    data = config.data
    try:
        require_columns(log, data)
        new = log.since(data.time, begin) & log_splits(log, data)["train"]
        rows = log.keep(lambda frame: frame.filter(new))
        columns = feature_columns(config.declared, dict(sources), "log")
        timeless = naming_rows(null_checks([data.time]), [*data.request, data.item])  # of no period
        yield from map(unfit_values, find_faults(log, timeless).values())
        yield from map(unfit_values, find_faults(rows, log_checks(rows, data, columns)).values())
    except DataError as error:
        yield unfit_values(str(error))


def count_new_rows(config: Config, log: Table, begin: int) -> tuple[SplitCounts, int]:
    """Count the rows of a log that train from a moment on. Raises DataError.

    Returns also when they end, ms UTC: when the config's training ends, or after the last row if it has no end.
    """
    data, until = config.data, config.data.training_end()
    later = log.keep(lambda frame: frame.filter(log.since(data.time, begin)))
    last = later.collect(later.frame.select(later.moment(data.time).max())).item()
    rows = SplitRows.of(later, data, config.declared, {}, begin if last is None else int(last))
    new = rows.frame.filter(pl.col(SPLIT) == "train", pl.col(TIME) >= begin)
    if until == FOREVER:
        until = 1 + max(begin, rows.collect(new.select(pl.col(TIME).max())).item() or begin)
    return count_splits(replace(rows, frame=new))["train"], until
