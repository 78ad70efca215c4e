"""Rows that no training can use are dropped and counted; a log that has too many of them is refused."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.core.time import now_ms
from corank.data.tables import Table
from corank.data.validate import drop_unusable_rows
from corank.features.log_schema import DataSettings
from tests.support.shared import derived

NOW, YEAR_9999 = now_ms(), 253_402_300_799_000


def settings() -> DataSettings:
    return derived().config.data.model_copy(
        update={"request": ["request"], "user": "user", "item": "item", "time": "time"}
    )


def log(folder: Path, served: bool, **odd: Sequence[object]) -> Table:
    """A log of 30 good rows and some odd ones, of which some columns are given."""
    count = len(next(iter(odd.values()), []))
    good = {"request": "r", "user": 1, "item": 2, "time": NOW - 1000}
    columns = {name: [value] * 30 + list(odd.get(name, [value] * count)) for name, value in good.items()}
    frame = pl.DataFrame(columns, strict=False)
    if served:
        frame = frame.with_columns(served_id=pl.lit("a"))
    frame.write_parquet(folder / "log.parquet")
    return Table.scan("log", "log.parquet", folder)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("time", YEAR_9999, "the time is after "),
        ("time", NOW + 3_600_000, "the time is after "),
        ("time", None, "a user, an item or a time is null"),
        ("item", None, "a user, an item or a time is null"),
        ("user", None, "no user"),
    ],
    ids=str.split("year-9999 late no-time no-item no-user"),
)
def test_a_few_odd_rows_are_dropped_and_counted(
    tmp_path: Path, column: str, value: object, reason: str
) -> None:
    messages: list[str] = []
    table = drop_unusable_rows(log(tmp_path, False, **{column: [value] * 2}), settings(), messages.append)
    assert table.collect(table.frame)[column].null_count() == 0 and len(table.collect(table.frame)) == 30
    assert len(messages) == 1 and messages[0].startswith(f"log: 2 of 32 rows dropped: {reason}")
    with pytest.raises(DataError, match=r"\(10 of 40 rows; at most a tenth may be dropped\)"):
        drop_unusable_rows(log(tmp_path, False, **{column: [value] * 10}), settings(), messages.append)


def test_requests_without_a_user_and_items_without_a_row_cost_no_served_log(tmp_path: Path) -> None:
    """Any client may send as many as it likes."""
    table = log(tmp_path, True, user=[None] * 20 + [1] * 20, item=[2] * 20 + [99] * 20)
    messages: list[str] = []
    kept = drop_unusable_rows(table, settings(), messages.append, items=pl.Series([1, 2]))
    assert len(kept.collect(kept.frame)) == 30
    reasons = [line.partition("dropped: ")[2] for line in messages]
    assert reasons == ["no user", "the item has no row in data.items"]
    messages.clear()
    kept = drop_unusable_rows(log(tmp_path, True, request=[None] * 20), settings(), messages.append)
    assert len(kept.collect(kept.frame)) == 30
    assert messages == ["log: 20 of 50 rows dropped: a part of data.request is null"]


def test_served_requests_that_share_their_key_cost_no_log(tmp_path: Path) -> None:
    """A client may send a user and a time twice, with other columns; the first is kept, whatever the order of rows."""
    columns = {"user": [1, 1, 1, 2, 1, 2], "item": [1, 2, 1, 1, 3, 1], "time": [NOW] * 5 + [NOW - 1]}
    frame = pl.DataFrame(columns | {"served_id": [*"bbacad"], "user_0": [1.0, 1.0, 2.0, 1.0, 2.0, 1.0]})
    frame.write_parquet(tmp_path / "log.parquet")
    table, messages = Table.scan("log", "log.parquet", tmp_path), list[str]()
    keyed = settings().model_copy(update={"request": ["user", "time"]})
    kept = drop_unusable_rows(table, keyed, messages.append)
    assert kept.collect(kept.frame).equals(frame[2:])
    assert messages == [
        "log: 2 rows dropped: another request has the same user, time (1 keys; the first request of each is kept)"
    ]
    by_user = drop_unusable_rows(table, settings().model_copy(update={"request": ["user"]}), messages.append)
    assert by_user.collect(by_user.frame)["served_id"].to_list() == ["a", "a", "d"]  # d came before c


def test_a_log_is_as_late_as_it_is_said_to_be(tmp_path: Path) -> None:
    """Of a simulated world, whose days are yet to come."""
    table = log(tmp_path, False, time=[NOW + 3_600_000])
    assert drop_unusable_rows(table, settings(), print, until=NOW + 7_200_000) is table
