"""Candidates by quarter of an hour: of which periods they are known, and what goes over to later packings."""

from pathlib import Path

import numpy as np

from corank.core.time import FOREVER, NEVER
from corank.data.packing.state import KEPT, LONGEST, QUARTER, KnownRows

DAY, HOUR = 86_400_000, 3_600_000


def rows(*times: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Requests of three candidates each, in shards of one."""
    return [(np.array([time]), np.array([3])) for time in times]


def test_a_period_is_known_where_a_split_has_all_rows_between() -> None:
    known = KnownRows.count(
        rows(HOUR, 2 * HOUR, 9 * HOUR), [(NEVER, 4 * HOUR), (8 * HOUR, FOREVER)], 10 * HOUR
    )
    assert known.between(HOUR, 2 * HOUR) == 3 and known.between(2 * HOUR, 4 * HOUR) == 3
    assert known.between(3 * HOUR, 4 * HOUR) == 0, "no row, and that is known"
    assert known.between(4 * HOUR, 8 * HOUR) is None and known.between(0, HOUR) is None
    assert known.between(2 * HOUR, 6 * HOUR) is None, "a half of it is known"
    assert known.between(HOUR, 4 * HOUR + HOUR // 4) == 6, "nearly all of it is known"


def test_what_an_earlier_packing_counted_stays(tmp_path: Path) -> None:
    """Rows of its holdout come again, and those of the quarter in which its training ended are only a part."""
    earlier = KnownRows.count(rows(QUARTER, 2 * QUARTER), [(NEVER, 4 * QUARTER)], 4 * QUARTER)
    later = KnownRows.count(rows(2 * QUARTER + 9, 5 * QUARTER), [(2 * QUARTER + 5, FOREVER)], 5 * QUARTER)
    both = later.after(earlier)
    assert [both.counts.get(n) for n in range(7)] == [None, 3, 3, 0, 0, 3, None]
    (tmp_path / "state").mkdir()
    both.write(tmp_path)
    assert KnownRows.read(tmp_path) == both
    assert KnownRows.read(tmp_path / "older") == KnownRows({})


def test_a_row_of_1970_and_many_days_are_bounded(tmp_path: Path) -> None:
    last = 20_000 * DAY
    known = KnownRows.count(rows(0, last), [(NEVER, FOREVER)], last)
    assert len(known.counts) == LONGEST + 1 and known.between(last - DAY, last) == 0
    (tmp_path / "state").mkdir()
    known.write(tmp_path)
    assert len(KnownRows.read(tmp_path).counts) == KEPT
