"""Splits by the time of the request: from moments on, or in ranges with gaps."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import polars as pl
from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from corank.core.settings import Moment, read_moment
from corank.core.time import FOREVER, NEVER
from corank.features.splits.split_rule import SPLITS, Instant, SplitColumns, SplitRule


class BoundedSplit(SplitRule):
    """A split by time alone."""

    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Compare the time with the bounds."""
        return {
            name: rows.time.is_between(*ends, closed="left") for name, ends in self.bounds(instant).items()
        }


class TimeSplit(BoundedSplit):
    """Requests before `valid` train; those from `valid` on validate, those from `test` on test."""

    valid: Moment
    """The first day or moment of validation; training ends there."""
    test: Moment | None = None
    """There is no test split unless given: then all from `valid` on validate."""

    @property
    def names(self) -> Sequence[str]:
        """Those that are given, and `train`."""
        return SPLITS if self.test is not None else SPLITS[:2]

    def check(self, instant: Instant) -> None:
        """Raise ValueError unless `valid` begins before `test`."""
        if self.test is not None and instant(self.valid) >= instant(self.test):
            raise ValueError(f"split: valid ({self.valid}) must begin before test ({self.test})")

    def bounds(self, instant: Instant) -> Mapping[str, tuple[int, int]]:
        """From each moment until the next."""
        valid = instant(self.valid)
        test = FOREVER if self.test is None else instant(self.test)
        ends = {"train": (NEVER, valid), "valid": (valid, test), "test": (test, FOREVER)}
        return {name: ends[name] for name in self.names}

    def describe(self) -> str:
        """Both moments."""
        return f"valid from {self.valid}" + ("" if self.test is None else f", test from {self.test}")


class TimeRange(NamedTuple):
    """From a moment (inclusive) until another (exclusive); None: without an end."""

    begin: datetime | date | None
    end: datetime | date | None

    def __str__(self) -> str:
        begin, end = ("" if moment is None else moment.isoformat() for moment in self)
        return f"{begin}..{end}"


def _range(value: Any) -> Any:
    if isinstance(value, TimeRange):
        return value
    if not isinstance(value, str) or value.count("..") != 1:
        raise PydanticCustomError("range", "expected a range FROM..UNTIL, such as 2026-04-01..2026-04-29")
    begin, end = (part.strip() for part in value.split(".."))
    return TimeRange(read_moment(begin) if begin else None, read_moment(end) if end else None)


Range = Annotated[TimeRange, BeforeValidator(_range), PlainSerializer(str, return_type=str)]
"""A range of time, written `FROM..UNTIL`; without FROM from the log's begin, without UNTIL until its end."""


class RangeSplit(BoundedSplit):
    """Ranges of time, one after another, with gaps or without. Requests in a gap are only history."""

    train: Range
    """From when until when requests train; all of the log if it is `..`."""
    valid: Range | None = None
    """Of validation; after `train`."""
    test: Range | None = None
    """Of the test; after `valid`."""

    @property
    def names(self) -> Sequence[str]:
        """Those that are given."""
        return tuple(name for name in SPLITS if getattr(self, name) is not None)

    def bounds(self, instant: Instant) -> Mapping[str, tuple[int, int]]:
        """The ranges."""
        ranges = {}
        for name in self.names:
            begin, end = getattr(self, name)
            ranges[name] = (
                NEVER if begin is None else instant(begin),
                FOREVER if end is None else instant(end),
            )
        return ranges

    def check(self, instant: Instant) -> None:
        """Raise ValueError if a range is empty, or two overlap or are not in order."""
        bounds = self.bounds(instant)
        for name, (begin, end) in bounds.items():
            if begin >= end:
                raise ValueError(
                    f"split.{name}: {getattr(self, name)} is empty; write FROM..UNTIL, UNTIL later and not in it"
                )
        for one, other in pairwise(bounds):
            if bounds[one][1] > bounds[other][0]:
                raise ValueError(
                    f"split: {one} ({getattr(self, one)}) must end before {other} ({getattr(self, other)}) begins"
                )

    def describe(self) -> str:
        """All ranges."""
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.names)
