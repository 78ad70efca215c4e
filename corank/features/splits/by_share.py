"""A split by shares of the requests in the order of their time, which the log turns into moments."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import polars as pl
from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from corank.core.errors import ConfigError, DataError
from corank.core.time import from_ms
from corank.features.splits.by_time import TimeSplit
from corank.features.splits.split_rule import SPLITS, Instant, SplitColumns, SplitRule


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
            raise ValueError(
                "valid and test are shares of the requests; together they must leave some to train"
            )
        return self

    @property
    def names(self) -> Sequence[str]:
        """Those that have a share."""
        return SPLITS if self.test is not None else SPLITS[:2]

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
