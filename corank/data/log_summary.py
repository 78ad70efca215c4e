"""Checks of the log before it is packed, range by range, and its size and time span."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import polars as pl

from corank.core.errors import DataError
from corank.core.time import FOREVER, NEVER, format_time
from corank.data.log_rows import log_splits
from corank.data.tables import RowRange, Table, cut_table
from corank.data.validate import (
    RowCheck,
    find_faults,
    label_checks,
    naming_rows,
    null_checks,
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
    """Size, time span and faults of a log or of a range of it."""

    rows: int
    first: int
    """Time of the earliest candidate, ms UTC; FOREVER if there is none."""
    last: int
    """Time of the latest candidate, ms UTC; NEVER if there is none."""
    splits: dict[str, int]
    """Rows of each split."""
    faults: dict[int, str] = field(default_factory=dict)
    """Error messages, by the number of the broken rule among `log_checks`."""

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
        summary = cls.merge(engine.run(partial(_survey_range, log, data, columns), cut_table(log)))
        if summary.faults:
            raise DataError(summary.faults[min(summary.faults)])
        if not summary.rows:
            raise DataError("data.log: the log is empty")
        summary._check_splits(data)
        return summary

    @classmethod
    def merge(cls, parts: Sequence["LogSummary"]) -> Self:
        """Merge parts in the order of their rows: of each rule, the first row that breaks it is reported."""
        return cls(
            sum(part.rows for part in parts),
            min(part.first for part in parts),
            max(part.last for part in parts),
            {split: sum(part.splits[split] for part in parts) for split in parts[0].splits},
            {n: fault for part in reversed(parts) for n, fault in part.faults.items()},
        )

    def _check_splits(self, data: DataSettings) -> None:
        for split, rows in self.splits.items():
            if not rows:
                # times in seconds would be of the years 2001 to 2106
                seconds = 10**9 < self.first <= self.last < 2**32
                hint = "; whole numbers are milliseconds, and these look like seconds: multiply "
                raise DataError(
                    f"data.split: no row of the log is in '{split}' ({data.split.describe()}; {data.timezone}); "
                    f"the log is from {format_time(self.first)} to {format_time(self.last)}"
                    + (f"{hint}'{data.time}' by 1000" if seconds else "")
                )


def identifying_columns(data: DataSettings) -> list[str]:
    """The columns in which every candidate has a value."""
    return list(dict.fromkeys([*data.request, data.user, data.item, data.time]))


def require_columns(log: Table, data: DataSettings) -> None:
    """Raise DataError if the log lacks a column that is no feature's."""
    single = (data.level, data.weight, data.position, data.propensity, data.split.source)
    log.require([*identifying_columns(data), *filter(None, single)])
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
        *naming_rows(null_checks(identifying_columns(data)), keys),
        *naming_rows(label_checks(log, data), keys),
        *number_checks(log, columns, data.request),
        *naming_rows(weight_checks(log, data), keys),
        *naming_rows(score_checks(log, data), keys),
        *naming_rows(position_checks(log, data), keys),
        *naming_rows(propensity_checks(log, data), keys),
        *naming_rows(split_checks(log, data), keys),
        *value_checks(log, [c for c in data.columns if c in log.types], keys),
    ]


def _survey_range(log: Table, data: DataSettings, columns: list[str], rows: RowRange) -> LogSummary:
    """Read a range of a log, the task, once, and check it; `columns` are the features'. Raises DataError."""
    checks = log_checks(log, data, columns)
    read = [*identifying_columns(data), *filter(None, [data.split.source])]
    read += [check.column for check in checks]
    batches = rows.read(log, [pl.col(column) for column in dict.fromkeys(read)])
    return LogSummary.merge([_survey(log, data, batch, checks) for batch in batches])


def _survey(log: Table, data: DataSettings, batch: pl.DataFrame, checks: list[RowCheck]) -> LogSummary:
    log = replace(log, frame=batch.lazy())
    time, splits = log.moment(data.time), log_splits(log, data)
    facts = [time.min().alias("first"), time.max().alias("last")]
    facts += [inside.sum().alias(f"split {split}") for split, inside in splits.items()]
    first, last, *counts = log.collect(log.frame.select(facts)).row(0)
    return LogSummary(
        len(batch),
        FOREVER if first is None else first,
        NEVER if last is None else last,
        dict(zip(splits, counts, strict=True)),
        find_faults(log, checks),
    )
