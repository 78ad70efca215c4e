"""Tables → encoders, from training rows alone: distinct values are counted, numbers measured."""

import math
from collections.abc import Mapping
from typing import Literal

import polars as pl

from corank.core.types import Doubles
from corank.data.tables import Table
from corank.data.validate import Source
from corank.features.encoders import Encoder, Encoders
from corank.features.kinds import (
    BucketFeature,
    ContainsFeature,
    DerivedFeature,
    Feature,
    IdFeature,
    IdsFeature,
    NumberFeature,
    PairFeature,
    ScaledFeature,
    Scaling,
)
from corank.features.log_schema import DataSettings
from corank.features.scale import Bucket, Scale, numbers
from corank.features.schema import Schema
from corank.features.vocabulary import Hash, Vocabulary, identifiers

SAMPLE = 2**20
"""Values, at most, from which quantiles are taken."""

Tables = Mapping[Source, Table | None]


def fit(schema: Schema, data: DataSettings, found: dict[str, Source], tables: Tables) -> Encoders:
    """Encoders of every feature that has its own. Rows are counted before duplicates are dropped.

    Raises DataError, which names the feature, for values that its kind cannot encode.
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
        fitted[name] = _fit(name, schema.features[name], table, rows.select(pl.col(column).alias("value")))
    return Encoders(schema, fitted)


def fit_derived(name: str, feature: DerivedFeature, rows: pl.LazyFrame) -> Encoder:
    """The encoder of a derived feature, from its column among training rows: hashes as Int64, or numbers."""
    values = rows.select(pl.col(name).alias("value"))
    table = Table(name, values, values.collect_schema(), "feather")
    if isinstance(feature, PairFeature):
        return _fit_ids(name, feature, table, values)
    if isinstance(feature, ContainsFeature):
        return Scale("none")
    assert isinstance(feature, ScaledFeature)
    if feature.buckets is not None:
        return Bucket.fit(_sample(name, table, values), feature.buckets)
    return _fit_scale(name, feature.scaling, table, values)


def _fit(name: str, feature: Feature, table: Table, values: pl.LazyFrame) -> Encoder:
    """`values`: the training rows' column `value`."""
    if isinstance(feature, IdFeature | IdsFeature):
        return _fit_ids(name, feature, table, values)
    if isinstance(feature, BucketFeature):
        return Bucket.fit(_sample(name, table, values), feature.buckets)
    assert isinstance(feature, NumberFeature)
    return _fit_scale(name, feature.scale, table, values)


def _fit_scale(name: str, scale: Scaling, table: Table, values: pl.LazyFrame) -> Scale:
    if scale == "quantile":
        return Scale.from_sample(_sample(name, table, values))
    return Scale("none") if scale == "none" else _moments(scale, table, values)


def _fit_ids(
    name: str, feature: IdFeature | IdsFeature | PairFeature, table: Table, values: pl.LazyFrame
) -> Vocabulary | Hash:
    if isinstance(feature, IdsFeature):
        values = _exploded(feature, values)
    if feature.hash is not None and isinstance(feature, PairFeature):
        return Hash(feature.hash, text=False)
    if feature.hash is not None:
        first = identifiers(table.collect(values.drop_nulls().head(1))["value"], name)
        return Hash(feature.hash, text=first.dtype == pl.String)
    counts = table.collect(values.group_by("value").agg(pl.len().alias("count")))
    return Vocabulary.fit(counts, name, feature.min_count)


def _exploded(feature: IdsFeature, values: pl.LazyFrame) -> pl.LazyFrame:
    value = pl.col("value")
    if feature.separator is None:
        return values.select(value.explode())
    texts = values.select(value.cast(pl.String).str.split(feature.separator).explode().str.strip_chars())
    return texts.filter(value != "")


def _sample(name: str, table: Table, values: pl.LazyFrame) -> Doubles:
    """At most SAMPLE values, drawn by a hash of their places, so as not to fall in step with the requests."""
    known = values.drop_nulls()
    stride = -(-table.collect(known.select(pl.len())).item() // SAMPLE)
    if stride > 1:
        place = pl.col("place").cast(pl.UInt64)
        drawn = place * pl.lit(0x9E3779B97F4A7C15, pl.UInt64) // 2**32 % stride == 0
        known = known.with_row_index("place").filter(drawn).select("value")
    return numbers(table.collect(known)["value"], name)


def _moments(form: Literal["standard", "log"], table: Table, values: pl.LazyFrame) -> Scale:
    value = pl.col("value").cast(pl.Float64)
    if form == "log":
        value = value.sign() * value.abs().log1p()
    mean = _mean(table, values, value)
    variance = None if mean is None else _mean(table, values, (value - mean) ** 2)
    return Scale.from_moments(form, mean, None if variance is None else math.sqrt(variance))


def _mean(table: Table, values: pl.LazyFrame, of: pl.Expr) -> float | None:
    """A mean that is the same whichever rows are summed first, as by threads: of whole multiples of a power of two."""
    count, most = table.collect(values.select(of.count().alias("n"), of.abs().max().alias("most"))).row(0)
    if not count or not most:
        return 0.0 if count else None
    if math.isinf(most):
        return math.inf
    unit = 2.0 ** min(math.floor(62 - math.log2(count) - math.log2(most)), 1000)
    total = table.collect(values.select((of * unit).round().cast(pl.Int64).sum())).item()
    return float(total) / unit / float(count)
