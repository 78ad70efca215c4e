"""Where each feature comes from, and whether the log is sound: what packing asks before it begins."""

from dataclasses import dataclass
from typing import Literal, Self

import polars as pl

from corank.core.errors import ConfigError, DataError
from corank.core.time import format_time
from corank.data.tables import Table
from corank.features.feature_kind import ColumnFeature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

Source = Literal["log", "items", "users"]


def sources(
    schema: Schema, data: DataSettings, log: Table, items: Table | None, users: Table | None
) -> dict[str, Source]:
    """The table of each feature of a column; the item's id is of items, the user's of users.

    Raises DataError for a column that is nowhere, ConfigError for an item feature without a table of items.
    """
    found: dict[str, Source] = {}
    tables: dict[Source, Table | None] = {"log": log, "items": items, "users": users}
    for name, feature in schema.columns().items():
        column = schema.column(name)
        if feature.side == "item":
            found[name] = "items"
            if column != data.item:
                if items is None:
                    raise ConfigError(
                        f"features.{name}: an item feature is read from `data.items`, which is not given; "
                        f"without it only the item id ('{data.item}') can be one"
                    )
                items.require([column])
        elif feature.side == "user" and (
            column == data.user or (users is not None and column in users.types)
        ):
            found[name] = "users"
        else:
            found[name] = "log"
            if column not in log.types and feature.side == "user" and users is not None:
                users.require([column])
            log.require([column])
        _check_type(name, feature, column, tables[found[name]])
    _check_matches(schema, found, data, tables)
    return found


def _check_matches(
    schema: Schema, found: dict[str, Source], data: DataSettings, tables: dict[Source, Table | None]
) -> None:
    """Raise DataError where a cross looks for text in a list of numbers, or the reverse: it would find nothing."""

    def is_text(operand: str) -> bool | None:
        name = schema.of_items(operand) or operand
        column, table = schema.column(name), tables[found[name]]
        if table is None or column not in table.types:
            # the item's (user's) id of a log alone
            table = tables["log"]
        kind = table.types.get(column) if table else None
        while isinstance(kind, pl.List | pl.Array):
            kind = kind.inner  # type: ignore[assignment]
        if kind is None or kind == pl.Null:
            return None
        return kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)

    for name, feature in schema.derived().items():
        if feature.compares:
            kinds = {operand: is_text(operand) for operand in feature.operands}
            if set(kinds.values()) == {True, False}:
                spelt = ", ".join(
                    f"'{n}' is {'text' if text else 'whole numbers'}" for n, text in kinds.items()
                )
                raise DataError(
                    f"features.{name}.{feature.operands_key}: {spelt}, so that no value of one can be found in "
                    "the other; write both alike"
                )


def _check_type(name: str, feature: ColumnFeature, column: str, table: Table | None) -> None:
    if table is None or column not in table.types:
        return
    expected = feature.check_column(name, table.types[column])
    if expected:
        raise table.unfit(column, expected)


def feature_columns(schema: Schema, found: dict[str, Source], source: Source) -> list[str]:
    """The distinct columns that features read from a table."""
    return schema.column_names(name for name, s in found.items() if s == source)


@dataclass(frozen=True)
class Survey:
    """What the log holds."""

    rows: int
    first: int
    """ms since 1970 UTC, as is `last`."""
    last: int
    splits: dict[str, int]
    """Rows of each."""

    @classmethod
    def of(cls, log: Table, data: DataSettings, columns: list[str]) -> Self:
        """Read keys, time, labels, level and weight once. Raises DataError for what cannot be packed.

        `columns` are the features' columns of the log.
        """
        keys = [*data.request, data.user, data.item]
        log.require([*keys, data.time, *(c for c in (data.level, data.weight) if c)])
        log.require(label.column for label in data.labels.values())
        log.require(score.column for score in data.scores.values())
        log.require([data.position] if data.position else [])
        log.check_whole(keys)
        time = log.moment(data.time)
        facts = log.collect(
            log.frame.select(
                pl.len().alias("rows"),
                time.min().alias("first"),
                time.max().alias("last"),
                *(
                    time.is_between(a, b, closed="left").sum().alias(f"split {s}")
                    for s, (a, b) in data.splits().items()
                ),
                *(pl.col(c).null_count().alias(f"null {c}") for c in dict.fromkeys([*keys, data.time])),
            )
        ).row(0, named=True)
        if not facts["rows"]:
            raise DataError("data.log: the log is empty")
        for column in dict.fromkeys([*keys, data.time]):
            if facts[f"null {column}"]:
                raise DataError(
                    f"data.log: column '{column}' is null in {facts[f'null {column}']} rows; "
                    "every candidate needs one"
                )
        survey = cls(
            facts["rows"], facts["first"], facts["last"], {s: facts[f"split {s}"] for s in data.splits()}
        )
        survey._check_splits(data)
        check_labels(log, data)
        check_numbers(log, columns, data.request)
        check_weight(log, data)
        _check_scores(log, data)
        _check_position(log, data)
        return survey

    def _check_splits(self, data: DataSettings) -> None:
        for split, rows in self.splits.items():
            if not rows:
                raise DataError(
                    f"data.split: no row of the log is in '{split}' (valid from {data.split.valid}, "
                    f"test from {data.split.test}, {data.timezone}); "
                    f"the log is from {format_time(self.first)} to {format_time(self.last)}"
                )


def check_labels(log: Table, data: DataSettings) -> None:
    columns = {label.column: name for name, label in data.labels.items()}
    for column, name in columns.items():
        if not (log.types[column].is_numeric() or log.types[column] in (pl.Boolean, pl.Null)):
            raise log.unfit(column, f"0, 1 or null, as data.labels.{name} reads it")
    level = [pl.col(data.level).cast(pl.String)] if data.level else []
    kinds = log.collect(log.frame.select(*level, *columns).unique())
    for column, name in columns.items():
        wrong = kinds[column].drop_nulls().cast(pl.Float64)
        wrong = wrong.filter(~wrong.is_in([0.0, 1.0]))
        if len(wrong):
            raise DataError(
                f"data.labels.{name}: column '{column}' holds {wrong[0]:g}; expected 0, 1, or null if unknown"
            )
    if data.level:
        wrong = kinds[data.level].unique().sort()
        wrong = wrong.filter(~wrong.is_in(data.levels).fill_null(False))
        if len(wrong):
            raise DataError(
                f"data.level: column '{data.level}' holds {wrong[0]!r}; "
                f"data.levels are {', '.join(data.levels)}"
            )


def check_numbers(table: Table, columns: list[str], key: list[str]) -> None:
    """Raise DataError for NaN or an infinity in a feature's column, naming the row by its key."""
    floats = [column for column in columns if table.types[column].is_float()]
    bad = (
        table.collect(table.frame.select((~pl.col(c).is_finite()).any().alias(c) for c in floats))
        if floats
        else None
    )
    for column in floats:
        if bad is not None and bad[column].item():
            row = table.collect(
                table.frame.filter(~pl.col(column).is_finite())
                .select(*key, pl.col(column).alias("@"))
                .head(1)
            )
            where = ", ".join(
                f"{name}={value!r}" for name, value in row.select(key).row(0, named=True).items()
            )
            raise DataError(
                f"data.{table.name}: column '{column}' is {row['@'].item()} at {where}; "
                "write null for a missing value"
            )


def check_weight(log: Table, data: DataSettings) -> None:
    if data.weight is None:
        return
    if not log.types[data.weight].is_numeric():
        raise log.unfit(data.weight, "positive numbers, as data.weight reads it")
    weight = pl.col(data.weight).cast(pl.Float64)
    wrong = log.collect(
        log.frame.filter(~(weight.is_finite() & (weight > 0)).fill_null(False)).select(data.weight).head(1)
    )
    if len(wrong):
        raise DataError(
            f"data.weight: column '{data.weight}' holds {wrong.item()}; expected positive numbers"
        )


def _check_scores(log: Table, data: DataSettings) -> None:
    for name, score in data.scores.items():
        if not log.types[score.column].is_numeric():
            raise log.unfit(score.column, f"numbers, as data.scores.{name} reads it")
        value = pl.col(score.column).cast(pl.Float32)
        sound, expected = value.is_finite(), "finite numbers"
        if score.scale == "probability":
            sound, expected = sound & value.is_between(0, 1), "probabilities, 0 to 1"
        wrong = log.collect(log.frame.filter(~sound).select(score.column).head(1))
        if len(wrong):
            raise DataError(
                f"data.scores.{name}: column '{score.column}' holds {wrong.item()}; expected {expected}, "
                "or null where there is none"
            )


def _check_position(log: Table, data: DataSettings) -> None:
    if data.position is None:
        return
    if not log.types[data.position].is_numeric():
        raise log.unfit(data.position, "whole numbers from 0, as data.position reads it")
    place = pl.col(data.position)
    wrong = log.collect(
        log.frame.filter((place < 0) | (place.cast(pl.Float64) % 1 != 0)).select(place).head(1)
    )
    if len(wrong):
        raise DataError(
            f"data.position: column '{data.position}' holds {wrong.item()}; expected whole numbers from 0, "
            "or null where nothing was shown"
        )


def value_columns(data: DataSettings, log: Table, items: Table | None) -> dict[str, Source]:
    """The table of each of `data.columns`: the log where it has it, else the items.

    Raises DataError for a column that is nowhere, or that has no finite number somewhere, by which no candidate
    could be ordered.
    """
    found: dict[str, Source] = {}
    for column in data.columns:
        table = log if column in log.types or items is None else items
        if column not in table.types:
            raise DataError(
                f"data.columns: no column '{column}' in the log{'' if items is None else ' or the items'}; "
                f"the log has {', '.join(log.types)}"
            )
        check_values(table, [column], [*data.request, data.item] if table is log else [data.item])
        found[column] = "log" if table is log else "items"
    return found


def check_values(table: Table, columns: list[str], keys: list[str]) -> None:
    """Raise DataError where one of the columns has no finite number, naming the row by its keys."""
    table.require([*columns, *keys])
    for column in columns:
        if not table.types[column].is_numeric():
            raise table.unfit(column, "numbers, as data.columns reads it")
        sound = pl.col(column).cast(pl.Float32).is_finite().fill_null(False)
        wrong = table.collect(table.frame.filter(~sound).select(*keys, pl.col(column).alias("@")).head(1))
        if len(wrong):
            row = wrong.row(0, named=True)
            where = ", ".join(f"{key}={row[key]!r}" for key in keys)
            raise DataError(
                f"data.{table.name}: column '{column}' is {row['@']} at {where}; a value needs a number for "
                "every candidate: write one, such as 0"
            )
