"""The split of an imported log: the last days, as many as tell something, or shares."""

from collections.abc import Sequence
from datetime import date, timedelta

import pytest

from corank.datasets.importer import TENTHS, ImportedSplit, split_by_days

FIRST = date(2026, 1, 1)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([900] * 7, (5, 6)),
        ([900] * 7 + [1, 2], (5, 6)),  # the export ended soon after midnight
        ([300] * 20, (16, 18)),
        ([1] * 240, (192, 216)),  # a tenth of a small log
        ([0, 0, *[9] * 30, 0, 0], (26, 29)),  # days without requests
        ([100, 0, 0, 0, 5], None),
        ([900] * 5, None),
        ([900], None),
        ([*[10] * 30, 600, 600], None),
    ],
)
def test_days_are_taken_together_until_they_tell_something(
    counts: Sequence[int], expected: tuple[int, int] | None
) -> None:
    split = split_by_days([(day(n), count) for n, count in enumerate(counts) if count])
    assert split == (TENTHS if expected is None else ImportedSplit(*map(day, expected)))
