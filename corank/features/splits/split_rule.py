"""The values of the key `split` of a config, and the split of a row of the log."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from corank.core.settings import Settings
from corank.core.time import FOREVER, NEVER

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
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The splits that there are; `train` is always one."""

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
