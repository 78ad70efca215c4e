"""The key `split` of a config: which of the rules it is shows in its keys.

The values of the key `split` of a config, and the split of a row of the log.

Splits by the time of the request: from moments on, or in ranges with gaps.

A split by shares of the requests in the order of their time, which the log turns into moments.

Splits by a value of the request: a column of the log, or the user.

Splits of what is new: the rows of another rule from a moment on.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    SerializeAsAny,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from corank.core.errors import ConfigError, DataError
from corank.core.hash_index import splitmix64
from corank.core.settings import Moment, Settings, read_moment
from corank.core.time import FOREVER, NEVER, format_time, from_ms
from corank.features.encoding import hash_values

SPLITS = ("train", "valid", "test")
"""The names of all splits, in order."""
Instant = Callable[[datetime | date], int]
"""A day or a time of the config → ms UTC, in the data's time zone."""


@dataclass(frozen=True)
class SplitColumns:
    """The columns of rows by which they are split, as expressions."""

    time: pl.Expr
    """ms UTC."""
    user: pl.Expr
    """Int64 or String."""
    value: pl.Expr | None
    """The column that a split by column names."""


class SplitRule(Settings):
    """A way to split the requests of a log. All rows of a request are in one split, or in none."""

    @property
    def names(self) -> Sequence[str]:
        """The splits that there are: `train`, and those that are given."""
        return tuple(n for n in SPLITS if n == SPLITS[0] or getattr(self, n, None) is not None)

    @abstractmethod
    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Make an expression for each split: whether a row is in it."""

    def check(self, instant: Instant) -> None:
        """Raise ValueError if the splits contradict one another."""

    def bounds(self, instant: Instant) -> Mapping[str, tuple[int, int]]:
        """Return when each split begins and ends, ms UTC, with all rows between; none unless it is by time.

        NEVER and FOREVER stand for a bound that the split does not name.
        """
        return {}

    def training_end(self, instant: Instant) -> int:
        """Return when training ends, ms UTC: what is known later must not teach. FOREVER if by no time."""
        return self.bounds(instant).get("train", (NEVER, FOREVER))[1]

    def labels_until(self, instant: Instant) -> int:
        """Return until when the labels of training rows are known, ms UTC: the end of training."""
        return self.training_end(instant)

    def training_begin(self, instant: Instant) -> int:
        """Return when training begins, ms UTC; NEVER if the split names no such moment."""
        return self.bounds(instant).get("train", (NEVER, FOREVER))[0]

    @property
    def source(self) -> str | None:
        """The column of the log that it reads, besides time and user."""
        return None

    @property
    def values(self) -> Sequence[str] | None:
        """The values that this column may hold, besides null; None if there is no such column."""
        return None

    @abstractmethod
    def describe(self) -> str:
        """Describe it in short, for messages."""


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
    trained: Moment | None = Field(None, exclude_if=lambda value: value is None)
    """When the model is trained: until then labels of training rows are known; the end of `train` unless given."""

    def labels_until(self, instant: Instant) -> int:
        """Return when the model is trained."""
        return self.training_end(instant) if self.trained is None else instant(self.trained)

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
                raise ValueError(f"split.{name}: {getattr(self, name)} is empty; UNTIL must be later")
        for one, other in pairwise(bounds):
            if bounds[one][1] > bounds[other][0]:
                raise ValueError(
                    f"split: {one} ({getattr(self, one)}) must end before {other} ({getattr(self, other)}) begins"
                )
        if self.labels_until(instant) < self.training_end(instant):
            raise ValueError(f"split.trained: {self.trained} is before the end of train ({self.train})")

    def describe(self) -> str:
        """All ranges."""
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.names)


def is_share(value: object) -> bool:
    """Whether a plain value is a number, which no moment is."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share(value: Any) -> Any:
    if is_share(value) and 0 < value < 1:
        return float(value)
    raise PydanticCustomError(
        "share",
        "expected a share of the requests above 0 and below 1, such as 0.1, beside another share, or else days and "
        "times alone, such as 2026-04-30",
    )


Share = Annotated[float, BeforeValidator(_share)]
"""A share of the requests."""


class ShareSplit(SplitRule):
    """The last requests by time: the share `test` of them tests, the share `valid` before them validates.

    No row is selected by it: `data` are opened with the moments that it means in their log.
    """

    valid: Share
    """The share of the requests that validate, such as 0.1."""
    test: Share | None = None
    """The share that test, the last ones; there is no test split unless given."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.valid + (self.test or 0) >= 1:
            raise ValueError("valid and test are shares of the requests, which must leave some to train")
        return self

    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Raise ConfigError: the log must provide the moments first."""
        raise self._unresolved()

    def bounds(self, instant: Instant) -> Mapping[str, tuple[int, int]]:
        """Raise ConfigError: the log must provide the moments first."""
        raise self._unresolved()

    def at(self, times: pl.Series, counts: pl.Series) -> TimeSplit:
        """Find the moments that the shares mean in a log.

        Args:
            times: distinct times of requests, ms UTC, ascending: (T,).
            counts: how many requests each time has: (T,).

        Raises:
            DataError: the times are too few to split.
        """
        total, ends = int(counts.sum()), counts.cum_sum()
        last = 0 if self.test is None else max(1, round(total * self.test))
        before = max(1, round(total * self.valid)) + last

        def begin(requests: int) -> int:
            """The number of the time from which on so many requests are the last."""
            return int(ends.search_sorted(max(0, total - requests), side="right"))

        valid, test = begin(before), begin(last)
        if not 0 < valid < test or (self.test is not None and test >= len(times)):
            named = "training, validation and test" if self.test is not None else "training and validation"
            raise DataError(
                f"data.split: the {total:,} requests of the log have {len(times):,} times, too few to split them by "
                f"shares into {named}; write another data.split"
            )
        return TimeSplit(
            valid=from_ms(times[valid]), test=None if self.test is None else from_ms(times[test])
        )

    def describe(self) -> str:
        """The shares."""
        return f"shares, valid {self.valid:g}" + ("" if self.test is None else f", test {self.test:g}")

    def _unresolved(self) -> ConfigError:
        return ConfigError(
            f"data.split: {self.describe()}: the log must be read to know the moments they mean"
        )


def _texts(value: object) -> object:
    """Values of a column as text, as rows are compared."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | bool) for one in values):
        raise PydanticCustomError("texts", "expected texts or whole numbers, the values of the column")
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in values]


Values = Annotated[list[str], BeforeValidator(_texts), Field(min_length=1)]
"""Values of a column, as text."""


class ColumnSplit(SplitRule):
    """A column of the log has it: `train`, `valid`, `test`, or the values that each split names; null for none."""

    column: str
    """A column of the log."""
    train: Values = ["train"]
    """Its values that train."""
    valid: Values | None = ["valid"]
    """Its values that validate; null for no such split."""
    test: Values | None = ["test"]
    """Its values that test; null for no such split."""

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        listed = self.values
        twice = sorted({value for value in listed if listed.count(value) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' is named by two splits; each value belongs to one")
        return self

    @property
    def source(self) -> str | None:
        """The column."""
        return self.column

    @property
    def values(self) -> Sequence[str]:
        """Those of all splits."""
        return [value for name in self.names for value in getattr(self, name)]

    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Compare the column's value, as text."""
        assert rows.value is not None
        text = rows.value.cast(pl.String)
        return {name: text.is_in(getattr(self, name)).fill_null(False) for name in self.names}

    def describe(self) -> str:
        """The column and its values."""
        named = "; ".join(f"{name}: {', '.join(getattr(self, name))}" for name in self.names)
        return f"column '{self.column}', {named}"


def _draw_users(seed: int, users: pl.Series) -> pl.Series:
    """Draw a number in [0, 1) for each user, the same for the same seed: (N,) ids → (N,)."""
    keys = hash_values(users, "split")
    drawn = splitmix64(keys ^ splitmix64(np.array([seed], dtype=np.uint64)))
    return pl.Series(users.name, (drawn >> np.uint64(11)) * 2.0**-53)


class UserSplit(SplitRule):
    """Users at random: all requests of a user are in one split."""

    by: Literal["user"]
    """What is drawn at random."""
    valid: float = Field(gt=0, lt=1)
    """The share of the users that validate."""
    test: float | None = Field(None, gt=0, lt=1)
    """The share that test; there is no test split unless given."""
    seed: NonNegativeInt = Field(0, lt=2**63)
    """Another seed draws other users."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.valid + (self.test or 0) >= 1:
            raise ValueError("valid and test are shares of the users; together they must leave some to train")
        return self

    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Draw by a hash of the user."""
        draw = partial(_draw_users, self.seed)  # to be pickled
        drawn = rows.user.map_batches(draw, return_dtype=pl.Float64, is_elementwise=True)
        test = self.test or 0.0
        conditions: dict[str, pl.Expr] = {
            "train": drawn >= self.valid + test,
            "valid": drawn.is_between(test, self.valid + test, closed="left"),
        }
        return conditions if self.test is None else conditions | {"test": drawn < test}

    def describe(self) -> str:
        """The shares."""
        return f"by user, valid {self.valid:g}" + ("" if self.test is None else f", test {self.test:g}")


_TAGS: Mapping[type[SplitRule], str] = {
    TimeSplit: "by time",
    RangeSplit: "by range",
    ShareSplit: "by share",
    ColumnSplit: "by column",
    UserSplit: "by user",
}


def _tag(value: Any) -> str:
    """Which rule a value means."""
    if isinstance(value, SplitRule):
        return _TAGS[type(value)]
    if isinstance(value, Mapping):
        if "column" in value:
            return "by column"
        if "by" in value:
            return "by user"
        if "train" in value or any(isinstance(v, TimeRange) or ".." in str(v) for v in value.values()):
            return "by range"
        if any(is_share(part) for part in value.values()):
            return "by share"
    return "by time"


Split = Annotated[
    Annotated[TimeSplit, Tag("by time")]
    | Annotated[RangeSplit, Tag("by range")]
    | Annotated[ShareSplit, Tag("by share")]
    | Annotated[ColumnSplit, Tag("by column")]
    | Annotated[UserSplit, Tag("by user")],
    Discriminator(_tag),
]
"""A settings field of any rule. No tag is a key, so that errors name the keys alone."""


class LaterSplit(SplitRule):
    """The splits of a rule without the rows before a moment, which an earlier packing holds. No config has it."""

    rule: SerializeAsAny[SplitRule]
    """The config's."""
    since: int
    """ms UTC."""

    @property
    def names(self) -> Sequence[str]:
        """Those of the rule."""
        return self.rule.names

    def select(self, rows: SplitColumns, instant: Instant) -> Mapping[str, pl.Expr]:
        """Compare the time, too."""
        return {
            name: inside & (rows.time >= self.since)
            for name, inside in self.rule.select(rows, instant).items()
        }

    def bounds(self, instant: Instant) -> Mapping[str, tuple[int, int]]:
        """Those of the rule, from the moment on."""
        bounds = self.rule.bounds(instant)
        return {name: (max(begin, self.since), end) for name, (begin, end) in bounds.items()}

    def labels_until(self, instant: Instant) -> int:
        """That of the rule."""
        return self.rule.labels_until(instant)

    @property
    def source(self) -> str | None:
        """That of the rule."""
        return self.rule.source

    @property
    def values(self) -> Sequence[str] | None:
        """Those of the rule."""
        return self.rule.values

    def describe(self) -> str:
        """The rule, and from when on."""
        return f"{self.rule.describe()}, from {format_time(self.since)} on, where the earlier packing ends"
