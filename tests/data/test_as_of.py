"""Rows of items and users by the time from which they hold."""

import numpy as np
import polars as pl

from corank.core.time import NEVER
from corank.data.point_in_time import VersionedRows, newest_rows
from corank.features.log_schema import FROM, ID

ROWS = pl.DataFrame({ID: [2, 1, 2, 1], FROM: [5, NEVER, 7, 3], "price": [1.0, 2.0, 3.0, 4.0]})


def test_the_newest_row_of_each_id_is_that_of_the_latest_time() -> None:
    assert newest_rows(ROWS).sort(ID).rows() == [(1, 3, 4.0), (2, 7, 3.0)]
    again = pl.concat([ROWS, pl.DataFrame({ID: [2], FROM: [7], "price": [9.0]})])
    assert newest_rows(again).sort(ID)["price"].to_list() == [4.0, 9.0], "of two at one time the last"


def test_an_id_always_has_a_row() -> None:
    rows = VersionedRows.complete(ROWS, pl.Series([3]))
    assert rows.ids.values.to_list() == [1, 2, 3]
    positions = rows.find(pl.Series([1, 1, 2, 2, 3]), np.array([2, 3, 4, 8, 0]))
    assert rows.frame[positions]["price"].to_list() == [2.0, 4.0, None, 3.0, None]
