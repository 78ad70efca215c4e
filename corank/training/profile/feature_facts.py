"""Of each column that a feature reads: how much of it training knows, how often it is missing, how many values it has.

Rates are of candidates: an item's value counts as often as the item is a candidate. Of items and users the newest row
counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from corank.data.column_sources import Source, feature_columns
from corank.data.tables import Table
from corank.features.row_columns import FROM, ID, ITEM, USER
from corank.features.schema import Schema
from corank.training.profile.split_rows import SPLIT, SplitRows

COUNT, POSITIVES, KNOWN = "@count", "@positives", "@known"


@dataclass(frozen=True)
class Familiarity:
    """How much of a split has values that training has seen."""

    candidates: float
    """Share of its candidates that have a value, 0 to 1."""
    positives: float | None
    """Share of the positives of the main label; None if there are none."""


@dataclass(frozen=True)
class FeatureFacts:
    """Statistics of the values of one column, or of the ids of items or users."""

    name: str
    """The feature, or `item`, or `user`."""
    source: Source
    """The table that it is read from."""
    familiar: Mapping[str, Familiarity]
    """By split but `train`; empty if it is no id."""
    missing: Mapping[str, float]
    """By split: the share of its candidates that lack it, 0 to 1."""
    values: int | None
    """Distinct values of the training rows; None of lists."""
    rows: int
    """Items or users of the training rows; of a column of the log its training candidates."""


@dataclass(frozen=True)
class CountedRows:
    """Rows of one key, counted by split: columns SPLIT, COUNT, POSITIVES and some values."""

    frame: pl.DataFrame
    source: Source

    def facts(self, name: str, column: str, identifies: bool, missing: pl.Expr) -> FeatureFacts:
        """Compute the facts of a column.

        Args:
            name: of the feature.
            column: of the frame.
            identifies: whether its values are ids, of which training knows some.
            missing: whether a value is missing.
        """
        rows = self.frame.filter(pl.col(SPLIT).is_not_null())
        total = rows.group_by(SPLIT).agg(pl.col(COUNT, POSITIVES).sum()).sort(SPLIT, descending=True)
        lacking = rows.filter(missing).group_by(SPLIT).agg(pl.col(COUNT).sum())
        counts = {split: (count, positives) for split, count, positives in total.rows()}
        rates = dict.fromkeys(counts, 0.0) | {s: n / counts[s][0] for s, n in lacking.rows()}
        training = rows.filter(pl.col(SPLIT) == "train")
        nested = rows.schema[column].is_nested()
        familiar = self._familiar(rows.drop_nulls(column), column) if identifies and not nested else {}
        return FeatureFacts(
            name,
            self.source,
            familiar,
            rates,
            None if nested else training[column].drop_nulls().n_unique(),
            len(training) if self.source != "log" else counts.get("train", (0, 0))[0],
        )

    def _familiar(self, rows: pl.DataFrame, column: str) -> dict[str, Familiarity]:
        """Of the rows that have a value, those whose value a row of the split `train` has, too."""
        training = rows.filter(pl.col(SPLIT) == "train").select(column).unique()
        known = rows.with_columns(pl.col(column).is_in(training[column].implode()).alias(KNOWN))
        sums = known.group_by(SPLIT).agg(
            pl.col(COUNT, POSITIVES).sum(), pl.col(COUNT, POSITIVES).filter(KNOWN).sum().name.suffix(" known")
        )
        return {
            split: Familiarity(seen / count, seen_positives / positives if positives else None)
            for split, count, positives, seen, seen_positives in sums.sort(SPLIT, descending=True).rows()
            if split != "train"
        }


def measure_features(
    rows: SplitRows,
    schema: Schema,
    sources: dict[str, Source],
    tables: Mapping[str, Table],
    label: str,
) -> list[FeatureFacts]:
    """Measure the ids of items and users, and every column that a feature reads.

    Args:
        rows: with the log's columns of features.
        schema: the features.
        sources: the table that each feature is read from.
        tables: by name.
        label: whose positives are counted.
    """
    positives = rows.counts_as(label, "positives").sum().cast(pl.Int64).alias(POSITIVES)
    counted = pl.len().cast(pl.Int64).alias(COUNT), positives
    facts: list[FeatureFacts] = []
    for source, key, column in (("items", ITEM, rows.data.item), ("users", USER, rows.data.user)):
        keys = rows.collect(rows.frame.group_by(SPLIT, key).agg(*counted))
        of_source: Source = "items" if source == "items" else "users"
        named = [n for n, s in sources.items() if s == source and schema.column(n) != column]
        if source in tables:
            columns = [c for c in feature_columns(schema, sources, of_source) if c != column]
            keys = keys.join(_newest(tables[source], column, columns), left_on=key, right_on=ID, how="left")
        counted_rows = CountedRows(keys, of_source)
        facts.append(counted_rows.facts(source.removesuffix("s"), key, True, pl.col(key).is_null()))
        facts += [_facts(counted_rows, schema, n) for n in named]
    for name in (name for name, source in sources.items() if source == "log"):
        column = schema.column(name)
        values = rows.collect(rows.frame.group_by(SPLIT, column).agg(*counted))
        facts.append(_facts(CountedRows(values, "log"), schema, name))
    return facts


def _facts(rows: CountedRows, schema: Schema, name: str) -> FeatureFacts:
    """The facts of a feature; as an id if it distinguishes single values."""
    feature, column = schema.columns()[name], schema.column(name)
    return rows.facts(name, column, "id" in feature.uses, feature.is_missing(column))


def _newest(table: Table, key: str, columns: Sequence[str]) -> pl.DataFrame:
    """The newest row of each id: ID and columns."""
    chosen = table.frame.select(table.key(key).alias(ID), table.valid_from().alias(FROM), *table.own(columns))
    newest = table.collect(chosen).sort(FROM, maintain_order=True).unique(ID, keep="last").drop(FROM)
    return table.look_up(newest, ID, columns)
