"""Values of new rows that no packing takes, such as a level that the config does not name, or NaN."""

from collections.abc import Iterator, Mapping

import polars as pl

from corank.core.errors import DataError
from corank.data.column_sources import Source, feature_columns
from corank.data.log_rows import log_splits
from corank.data.log_summary import identifying_columns, log_checks, require_columns
from corank.data.tables import Table
from corank.data.validate import find_faults
from corank.training.config import Config
from corank.training.validation.figure import ValidationFigure


def unfit_values(reason: str) -> ValidationFigure:
    """Make the figure of values that cannot be packed; the reason names column, value and row."""
    return ValidationFigure("values", "tables", "fit", "unfit", None, "broken", reason)


def check_new_values(
    config: Config, log: Table, sources: Mapping[str, Source], begin: int
) -> Iterator[ValidationFigure]:
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
        for message in find_faults(rows, log_checks(rows, data, columns)).values():
            yield unfit_values(message)
        yield from _check_nulls(log, rows, config)
    except DataError as error:
        yield unfit_values(str(error))


def _check_nulls(log: Table, rows: Table, config: Config) -> Iterator[ValidationFigure]:
    """Yield a figure for each column that identifies a candidate and is null in new rows, or in any the time."""
    keys = identifying_columns(config.data)
    counts = rows.collect(rows.frame.select(pl.col(key).null_count() for key in keys)).row(0, named=True)
    time = config.data.time  # without one a row is in no period
    counts[time] = log.collect(log.frame.select(pl.col(time).null_count())).item()
    for column, nulls in counts.items():
        if nulls:
            yield unfit_values(
                f"data.log: column '{column}' is null in {nulls:,} rows; every candidate needs one"
            )
