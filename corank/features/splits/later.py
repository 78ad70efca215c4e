"""Splits of what is new: the rows of another rule from a moment on."""

from collections.abc import Mapping, Sequence

import polars as pl
from pydantic import SerializeAsAny

from corank.core.time import format_time
from corank.features.splits.split_rule import Instant, SplitColumns, SplitRule


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
