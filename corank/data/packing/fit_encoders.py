"""Tables → encoders, from training rows alone."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from corank.data.column_sources import Source
from corank.data.histories.event_tables import EventColumns
from corank.data.log_rows import log_splits
from corank.data.packing.measure import FittedFeatures, FitTerms, MeasuredColumn, fit_features
from corank.data.state.pack_start import PackStart
from corank.data.tables import Table
from corank.engine.base import Engine
from corank.features.histories.sources import events_table
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

Tables = Mapping[Source, Table | None]


def fit_terms(start: PackStart, schema: Schema, until: int) -> FitTerms:
    """Collect the terms of fitting: the state of an earlier packing for features that are the same."""
    if start.earlier is None:
        return FitTerms(until)
    tallies = {name: start.earlier.tally(name) for name in schema.features if name in start.carried}
    known = {name: tally for name, tally in tallies.items() if tally is not None}
    return FitTerms(until, start.earlier.frozen(schema), known)


def fit_encoders(
    schema: Schema,
    data: DataSettings,
    found: dict[str, Source],
    tables: Tables,
    events: Mapping[str, Table],
    since: int,
    spill: Path,
    engine: Engine,
    terms: FitTerms,
) -> FittedFeatures:
    """Fit the encoder of every feature of a column. Rows are counted before duplicates are dropped.

    Args:
        schema: the features.
        data: the settings of the tables.
        found: the table that each feature is read from.
        tables: the tables by name.
        events: those of `data.events`, by name.
        since: events before it, ms UTC, are of an earlier packing.
        spill: a folder for files, which is made.
        engine: runs the tasks.
        terms: what else is known.

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
            name_of_table = str(events_table(schema, name))
            time = EventColumns.of(data.events[name_of_table], data).time
            moment = events[name_of_table].moment(time)
            before = (moment < data.training_end()) & (moment >= since)
            # a list of one value, since the feature reads lists
            one = pl.concat_list(pl.col(column))
            columns[name] = feature, MeasuredColumn(events[name_of_table], one, before, moment)
            continue
        own_id = (source, column) in {("items", data.item), ("users", data.user)}
        table = (None if own_id else tables[source]) or log
        of_log = (training, log.moment(data.time)) if table is log else ()
        columns[name] = feature, MeasuredColumn(table, pl.col(column), *of_log)
    return fit_features(columns, spill, engine, terms)
