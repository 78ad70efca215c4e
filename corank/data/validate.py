"""Checks of the user's tables before they are packed. Each raises DataError, which names column, row and remedy."""

from dataclasses import dataclass
from typing import Self

import polars as pl

from corank.core.errors import DataError
from corank.core.time import format_time
from corank.data.tables import Table
from corank.features.log_schema import DataSettings


@dataclass(frozen=True)
class LogSummary:
    """Size and time span of a log that can be packed."""

    rows: int
    first: int
    """Time of the earliest candidate, ms UTC."""
    last: int
    """Time of the latest candidate, ms UTC."""
    splits: dict[str, int]
    """Rows of each split."""

    @classmethod
    def read(cls, log: Table, data: DataSettings, columns: list[str]) -> Self:
        """Check a log, reading its keys, time, labels, level, weight, scores and positions.

        Args:
            log: the table.
            data: its settings.
            columns: the features' columns of the log.

        Raises:
            DataError: a column is missing, of the wrong type, or holds a value that cannot be packed.
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
        summary = cls(
            facts["rows"], facts["first"], facts["last"], {s: facts[f"split {s}"] for s in data.splits()}
        )
        summary._check_splits(data)
        check_labels(log, data)
        check_numbers(log, columns, data.request)
        check_weight(log, data)
        _check_scores(log, data)
        _check_position(log, data)
        return summary

    def _check_splits(self, data: DataSettings) -> None:
        for split, rows in self.splits.items():
            if not rows:
                raise DataError(
                    f"data.split: no row of the log is in '{split}' (valid from {data.split.valid}, "
                    f"test from {data.split.test}, {data.timezone}); "
                    f"the log is from {format_time(self.first)} to {format_time(self.last)}"
                )


def check_labels(log: Table, data: DataSettings) -> None:
    """Raise DataError if a label is not 0, 1 or null, or a level is not among the data's levels."""
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
    """Raise DataError if a feature's column holds NaN or an infinity; the message names the row by its key."""
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
    """Raise DataError if a weight is not a positive number."""
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
    position = pl.col(data.position)
    wrong = log.collect(
        log.frame.filter((position < 0) | (position.cast(pl.Float64) % 1 != 0)).select(position).head(1)
    )
    if len(wrong):
        raise DataError(
            f"data.position: column '{data.position}' holds {wrong.item()}; expected whole numbers from 0, "
            "or null where nothing was shown"
        )


def check_values(table: Table, columns: list[str], keys: list[str]) -> None:
    """Raise DataError if one of the columns has no finite number; the message names the row by its keys."""
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
