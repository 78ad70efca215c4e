"""Splits of an imported log by time: by days where there are enough, else by shares of its requests."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

MOST_OF_TWO_DAYS = 0.35
"""Of all requests: where the last two days hold more, they are not split by days."""


class ImportedSplit(NamedTuple):
    """The `data.split` of an imported log: when validation and test begin, or the shares of its requests."""

    valid: datetime | date | float
    test: datetime | date | float

    def __str__(self) -> str:
        """As YAML."""
        valid, test = (end if isinstance(end, float) else end.isoformat() for end in self)
        return f"{{valid: {valid}, test: {test}}}"


TENTHS = ImportedSplit(0.1, 0.1)
"""The last tenth of the requests is the test, the tenth before validates: where the days are few."""


def split_by_days(days: Sequence[tuple[date, int]]) -> ImportedSplit:
    """Split at two midnights, so that the last day is the test, unless the last two days hold much of the log.

    Args:
        days: those that have requests, ascending, and how many.
    """
    last, total = days[-1][0], sum(count for _, count in days)
    valid = last - timedelta(days=1)
    later = sum(count for day, count in days if day >= valid)
    return ImportedSplit(valid, last) if later <= MOST_OF_TWO_DAYS * total else TENTHS
