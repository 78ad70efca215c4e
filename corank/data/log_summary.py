"""Checks of the log before it is packed, range by range, and its size and time span."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import polars as pl

from corank.core.errors import DataError
from corank.core.time import format_time
from corank.data.log_rows import log_splits
from corank.data.tables import RowRange, Table, cut_table
from corank.data.validate import (
    RowCheck,
    find_faults,
    label_checks,
    naming_rows,
    number_checks,
    position_checks,
    propensity_checks,
    score_checks,
    split_checks,
    value_checks,
    weight_checks,
    whole_checks,
)
from corank.engine.base import Engine
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
    def read(cls, log: Table, data: DataSettings, columns: list[str], engine: Engine) -> Self:
        """Check a log in one pass over its keys, time, labels, level, weight, scores, positions, numbers and values.

        Args:
            log: the table.
            data: its settings.
            columns: the features' columns of the log.
            engine: runs the tasks.

        Raises:
            DataError: a column is missing, of the wrong type, or holds a value that cannot be packed. Of several such
                values the first in the order of the log is named.
        """
        require_columns(log, data)
        ids = len(list(whole_checks(log, [*data.request, data.user, data.item])))
        survey = SurveyPart.merge(engine.run(SurveyRange(log, data, columns), cut_table(log)))
        _refuse_fault(survey, range(ids))
        if not survey.rows:
            raise DataError("data.log: the log is empty")
        for column, nulls in survey.nulls.items():
            if nulls:
                raise DataError(
                    f"data.log: column '{column}' is null in {nulls} rows; every candidate needs one"
                )
        assert survey.first is not None and survey.last is not None  # no time is null
        summary = cls(survey.rows, survey.first, survey.last, survey.splits)
        _refuse_fault(survey, survey.faults)
        summary._check_splits(data)
        return summary

    def _check_splits(self, data: DataSettings) -> None:
        for split, rows in self.splits.items():
            if not rows:
                raise DataError(
                    f"data.split: no row of the log is in '{split}' ({data.split.describe()}; {data.timezone}); "
                    f"the log is from {format_time(self.first)} to {format_time(self.last)}"
                    f"{self._hint(data.time)}"
                )

    def _hint(self, column: str) -> str:
        """Say that times are likely in seconds, if they would be of the years 2001 to 2106."""
        if not 10**9 < self.first <= self.last < 2**32:
            return ""
        return f"; whole numbers are milliseconds, and these look like seconds: multiply '{column}' by 1000"


def _refuse_fault(survey: "SurveyPart", rules: Iterable[int]) -> None:
    """Raise DataError for the first of some rules that is broken."""
    for rule in sorted(survey.faults.keys() & set(rules)):
        raise DataError(survey.faults[rule])


def identifying_columns(data: DataSettings) -> list[str]:
    """The columns in which every candidate has a value."""
    return list(dict.fromkeys([*data.request, data.user, data.item, data.time]))


def _single(data: DataSettings) -> list[str]:
    """The columns that one setting each names, those that the log has."""
    named = (data.level, data.weight, data.position, data.propensity, data.split.source)
    return [column for column in named if column]


@dataclass(frozen=True)
class SurveyPart:
    """The contents of one range of a log."""

    rows: int
    first: int | None
    last: int | None
    splits: dict[str, int]
    nulls: dict[str, int]
    """By column of `identifying_columns`."""
    faults: dict[int, str]
    """Error messages, by the number of the broken rule among `log_checks`."""

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Merge parts in the order of their rows: of each rule, the first row that breaks it is reported."""
        firsts = [part.first for part in parts if part.first is not None]
        lasts = [part.last for part in parts if part.last is not None]
        return cls(
            sum(part.rows for part in parts),
            min(firsts, default=None),
            max(lasts, default=None),
            {split: sum(part.splits[split] for part in parts) for split in parts[0].splits},
            {column: sum(part.nulls[column] for part in parts) for column in parts[0].nulls},
            {n: fault for part in reversed(parts) for n, fault in part.faults.items()},
        )


def require_columns(log: Table, data: DataSettings) -> None:
    """Raise DataError if the log lacks a column that is no feature's."""
    log.require([*identifying_columns(data), *_single(data)])
    log.require(label.column for label in data.labels.values())
    log.require(score.column for score in data.scores.values())


def log_checks(log: Table, data: DataSettings, columns: list[str]) -> list[RowCheck]:
    """List the rules that the rows of a log keep, in the order in which broken ones are reported.

    Raises:
        DataError: a column is of a type that cannot be read.
    """
    keys = [*data.request, data.item]
    return [
        *whole_checks(log, [*data.request, data.user, data.item]),
        *naming_rows(label_checks(log, data), keys),
        *number_checks(log, columns, data.request),
        *naming_rows(weight_checks(log, data), keys),
        *naming_rows(score_checks(log, data), keys),
        *naming_rows(position_checks(log, data), keys),
        *naming_rows(propensity_checks(log, data), keys),
        *naming_rows(split_checks(log, data), keys),
        *value_checks(log, [c for c in data.columns if c in log.types], keys),
    ]


@dataclass(frozen=True)
class SurveyRange:
    """Surveys one range of a log."""

    log: Table
    data: DataSettings
    columns: list[str]
    """The features' columns of the log."""

    def __call__(self, rows: RowRange) -> SurveyPart:
        """Read the range once, and check it. Raises DataError if it cannot be read."""
        parts = [self._survey(batch) for batch in rows.read(self.log, [pl.col(c) for c in self._read()])]
        return SurveyPart.merge(parts)

    def _read(self) -> list[str]:
        """The columns to read."""
        data, types = self.data, self.log.types
        labels = [label.column for label in data.labels.values()]
        scores = [score.column for score in data.scores.values()]
        numbers = [column for column in self.columns if types[column].is_float()]
        values = [column for column in data.columns if column in types]
        return list(
            dict.fromkeys([*identifying_columns(data), *_single(data), *labels, *scores, *numbers, *values])
        )

    def _survey(self, batch: pl.DataFrame) -> SurveyPart:
        data, log = self.data, replace(self.log, frame=batch.lazy())
        time, keys = log.moment(data.time), identifying_columns(data)
        facts = log.collect(
            log.frame.select(
                time.min().alias("first"),
                time.max().alias("last"),
                *(inside.sum().alias(f"split {split}") for split, inside in log_splits(log, data).items()),
                *(pl.col(column).null_count().alias(f"null {column}") for column in keys),
            )
        ).row(0, named=True)
        faults = find_faults(log, log_checks(log, data, self.columns))
        return SurveyPart(
            len(batch),
            facts["first"],
            facts["last"],
            {split: facts[f"split {split}"] for split in data.split_names},
            {column: facts[f"null {column}"] for column in keys},
            faults,
        )
