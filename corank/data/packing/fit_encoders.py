"""Tables → encoders, from training rows alone."""

from collections.abc import Mapping

import polars as pl

from corank.data.column_sources import Source
from corank.data.tables import Table
from corank.features.encoders import Encoders
from corank.features.encoding import Encoder
from corank.features.feature_kind import DerivedFeature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.features.training_values import TrainingValues

Tables = Mapping[Source, Table | None]


def fit_encoders(schema: Schema, data: DataSettings, found: dict[str, Source], tables: Tables) -> Encoders:
    """Fit the encoder of every feature of a column. Rows are counted before duplicates are dropped.

    Args:
        found: the table that each feature is read from.
        tables: the tables by name.

    Raises:
        DataError: for values that a feature's kind cannot encode; it names the feature.
    """
    _, end = data.splits()["train"]
    log = tables["log"]
    assert log is not None
    training = log.frame.filter(log.moment(data.time) < end)
    fitted: dict[str, Encoder] = {}
    for name, source in found.items():
        column = schema.column(name)
        own_id = (source, column) in {("items", data.item), ("users", data.user)}
        table = (None if own_id else tables[source]) or log
        rows = training if table is log else table.frame
        values = TrainingValues(name, rows.select(pl.col(column).alias("value")), table.collect)
        encoder = schema.columns()[name].fit(values)
        if encoder is not None:
            fitted[name] = encoder
    return Encoders(schema, fitted)


def fit_derived(name: str, feature: DerivedFeature, rows: pl.LazyFrame) -> Encoder | None:
    """Fit the encoder of a derived feature.

    Args:
        rows: training rows, in which the column `name` holds hashes as Int64, or numbers.
    """
    frame = rows.select(pl.col(name).alias("value"))
    table = Table(name, frame, frame.collect_schema(), "feather")
    return feature.fit(TrainingValues(name, frame, table.collect))
