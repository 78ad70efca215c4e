"""Tables → encoders, from training rows alone."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from corank.data.column_sources import Source
from corank.data.log_rows import log_splits
from corank.data.packing.measure import MeasuredColumn, fit_features
from corank.data.tables import Table
from corank.engine.base import Engine
from corank.features.encoders import Encoders
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

Tables = Mapping[Source, Table | None]


def fit_encoders(
    schema: Schema,
    data: DataSettings,
    found: dict[str, Source],
    tables: Tables,
    spill: Path,
    engine: Engine,
) -> Encoders:
    """Fit the encoder of every feature of a column. Rows are counted before duplicates are dropped.

    Args:
        schema: the features.
        data: the settings of the tables.
        found: the table that each feature is read from.
        tables: the tables by name.
        spill: a folder for files, which is made.
        engine: runs the tasks.

    Raises:
        DataError: for values that a feature's kind cannot encode; it names the feature.
    """
    log = tables["log"]
    assert log is not None
    training = log_splits(log, data)["train"]
    columns = {}
    for name, source in found.items():
        column = schema.column(name)
        own_id = (source, column) in {("items", data.item), ("users", data.user)}
        table = (None if own_id else tables[source]) or log
        measured = MeasuredColumn(table, pl.col(column), training if table is log else None)
        columns[name] = schema.columns()[name], measured
    return Encoders(schema, fit_features(columns, spill, engine))
