"""Rows of items and users that were written after the time from which they hold (`recorded_at`)."""

import polars as pl
import pytest

from corank.data.point_in_time import settle_versions
from corank.features.log_schema import FROM, ID, RECORDED

Row = tuple[int, int, str]
"""FROM, RECORDED, value."""


def settle(*rows: Row) -> list[tuple[int, str]]:
    """From when each value of one item is known."""
    frame = pl.DataFrame([{ID: 1, FROM: begin, RECORDED: at, "value": value} for begin, at, value in rows])
    return settle_versions(frame).select(FROM, "value").rows()


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        pytest.param([(1, 1, "a"), (3, 7, "b")], [(1, "a"), (7, "b")], id="written late"),
        pytest.param([(5, 1, "a")], [(5, "a")], id="written ahead"),
        pytest.param([(3, 3, "b"), (1, 5, "a")], [(3, "b")], id="older value after a newer one"),
        pytest.param([(1, 1, "a"), (1, 4, "mended")], [(1, "a"), (4, "mended")], id="corrected"),
        pytest.param([(1, 9, "a"), (2, 9, "b")], [(9, "b")], id="written together"),
        pytest.param(
            [(1, 2, "a"), (1, 2, "b")], [(2, "a"), (2, "b")], id="contradiction, which readers refuse"
        ),
    ],
)
def test_a_row_counts_once_it_holds_and_is_written(rows: list[Row], known: list[tuple[int, str]]) -> None:
    assert sorted(settle(*rows)) == sorted(settle(*reversed(rows))) == known
