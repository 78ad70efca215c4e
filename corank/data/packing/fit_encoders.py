"""Tables → encoders, from training rows alone."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from corank.data.column_sources import Source
from corank.data.histories.event_tables import EventColumns
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
    events: Mapping[str, Table],
    spill: Path,
    engine: Engine,
) -> Encoders:
    """Fit the encoder of every feature of a column. Rows are counted before duplicates are dropped.

    Args:
        schema: the features.
        data: the settings of the tables.
        found: the table that each feature is read from.
        tables: the tables by name.
        events: those of `data.events`, by name.
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
        if schema.table_of(name) != name:
            continue  # a history has the encoder of its items
        column, feature = schema.column(name), schema.columns()[name]
        if source == "events":
            name_of_table = str(schema.histories()[schema.parallels()[name]].table)
            time = EventColumns.of(data.events[name_of_table], data).time
            before = events[name_of_table].moment(time) < data.training_end()
            # a list of one value, since the feature reads lists
            one = pl.concat_list(pl.col(column))
            columns[name] = feature, MeasuredColumn(events[name_of_table], one, before)
            continue
        own_id = (source, column) in {("items", data.item), ("users", data.user)}
        table = (None if own_id else tables[source]) or log
        measured = MeasuredColumn(table, pl.col(column), training if table is log else None)
        columns[name] = feature, measured
    return Encoders(schema, fit_features(columns, spill, engine))
