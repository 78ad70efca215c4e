"""`corank.join`: which candidates an event belongs to, when its label is known, and what a later call rewrites."""

import contextlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.errors import ConfigError, CorankError, DataError
from tests.support import kills

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(hours: float) -> datetime:
    return BEGIN + hours * HOUR


def write_log(path: Path, rows: Sequence[tuple[int, int, int, float]]) -> None:
    """A row a candidate: request, user, item, hour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ("request_id", "user_id", "item_id", "hour")
    frame = pl.DataFrame(rows, columns, orient="row")
    times = pl.Series("time", [at(hour) for hour in frame["hour"]], pl.Datetime("us", "UTC"))
    frame.select(*columns[:3], times, level=pl.lit("ranked")).write_parquet(path)


def write_events(path: Path, rows: Sequence[tuple[int | None, int | None, float]], **more: Any) -> None:
    """A row an event: user (or request, as `key`), item, hour; of one kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = more.pop("key", "user_id")
    types = {key: pl.Int64, "item_id": pl.Int64, "hour": pl.Float64}
    frame = pl.DataFrame(rows, types, orient="row")
    times = pl.Series("time", [at(hour) for hour in frame["hour"]], pl.Datetime("us", "UTC"))
    frame.select(key, "item_id", times, kind=pl.lit(more.pop("kind", "order"))).write_parquet(path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labels(name: str = "later") -> dict[tuple[int, int], int | None]:
    rows = pl.read_parquet("out/*.parquet").select("request_id", "item_id", name).rows()
    return {(request, item): value for request, item, value in rows}


def join(**options: Any) -> Any:
    return corank.join(
        "log/*.parquet", "out", ["later=orders/*.parquet:order"], **{"window": "10h", **options}
    )


@pytest.mark.parametrize(("credit", "taken"), [("all", {1, 2}), ("first", {1}), ("last", {2})])
def test_an_event_belongs_to_requests_of_its_user_with_its_item_within_the_window(
    credit: str, taken: set[int]
) -> None:
    # request 0 is too early, 1 and 2 are within the window, 3 comes after; 4 has another user, item 8 is another one
    write_log(Path("log/a.parquet"), [(n, 1, 7, hour) for n, hour in enumerate((1, 20, 26, 29))])
    write_log(Path("log/b.parquet"), [(4, 2, 7, 26), (2, 1, 8, 26)])
    write_events(Path("orders/a.parquet"), [(1, 7, 28), (1, 7, 28), (5, 5, 90)])
    join(credit=credit)
    assert {request for (request, _), value in labels().items() if value == 1} == taken
    assert set(labels().values()) == {0, 1}


def test_an_event_before_its_request_counts_within_the_skew_alone() -> None:
    write_log(Path("log/a.parquet"), [(1, 1, 7, 10)])
    write_events(Path("orders/a.parquet"), [(1, 7, 9.5), (5, 5, 90)])
    assert join()["labels"]["later"]["ones"] == 0
    shutil.rmtree("out")
    assert join(skew="30m")["labels"]["later"]["ones"] == 1


def test_a_label_is_missing_until_its_window_is_over_and_says_until_when_it_was_looked_at() -> None:
    write_log(Path("log/a.parquet"), [(1, 1, 7, 10), (2, 1, 7, 14)])
    write_events(Path("orders/a.parquet"), [(1, 7, 15), (5, 5, 21)])
    joined = join()
    assert labels() == {(1, 7): 1, (2, 7): None}
    assert pl.read_parquet("out/*.parquet")["labels_as_of"].to_list() == [at(20), at(21)]
    assert (joined["waiting"], joined["until"]) == (1, at(24).timestamp() * 1000)
    write_events(Path("orders/b.parquet"), [(5, 5, 24)])
    assert join()["waiting"] == 0
    assert labels() == {(1, 7): 1, (2, 7): 1}


def test_labels_of_requests_and_what_was_shown_are_joined_by_the_request() -> None:
    write_log(Path("log/a.parquet"), [(1, 1, 7, 10), (1, 1, 8, 10), (2, 1, 7, 10)])
    write_events(Path("views.parquet"), [(1, 7, 10.1), (1, 8, 10.1)], key="request_id", kind="view")
    write_events(Path("clicks.parquet"), [(1, 8, 10.2), (2, 9, 30)], key="request_id", kind="click")
    corank.join(
        "log/*.parquet",
        "out",
        of_request=["click=clicks.parquet:click"],
        exposed="views.parquet",
        window="1h",
        as_of="2026-03-03",
    )
    assert labels("click") == {(1, 7): 0, (1, 8): 1, (2, 7): 0}
    assert labels("level") == {(1, 7): "exposed", (1, 8): "exposed", (2, 7): "ranked"}


def test_each_label_is_known_by_its_own_table_and_the_log_by_the_one_that_is_behind() -> None:
    write_log(Path("log/a.parquet"), [(1, 1, 7, 10)])
    write_events(Path("orders/a.parquet"), [(1, 7, 15), (5, 5, 21)])
    write_events(Path("carts/a.parquet"), [(5, 5, 14)])
    labelled = ["later=orders/*.parquet:order", "cart=carts/*.parquet"]
    joined = corank.join("log/*.parquet", "out", labelled, window="10h")
    assert (labels(), labels("cart")) == ({(1, 7): 1}, {(1, 7): None})
    assert joined["waiting"] == 1
    assert pl.read_parquet("out/*.parquet")["labels_as_of"].to_list() == [at(14)]


def write_days(days: int) -> None:
    """A log and orders of some days, with an order of the day before in each file."""
    rng = np.random.default_rng(0)
    for day in range(days):
        hours = np.sort(rng.uniform(24 * day, 24 * day + 24, 50))
        items = [rng.choice(10, 4, replace=False) for _ in hours]
        rows = [
            (50 * day + n, int(n % 7), int(item), hour) for n, hour in enumerate(hours) for item in items[n]
        ]
        write_log(Path(f"all/log/{day}.parquet"), rows)
        orders = [
            (int(rng.integers(7)), int(rng.integers(10)), float(rng.uniform(24 * day - 24, 24 * day + 24)))
            for _ in range(40)
        ]
        write_events(
            Path(f"all/orders/{day}.parquet"), [*orders, (None, 1, 24 * day + 1.0), (99, 99, 24 * day + 23.9)]
        )


@pytest.mark.parametrize("credit", ["all", "first", "last"])
def test_days_one_by_one_are_days_at_once_to_the_byte(credit: str) -> None:
    write_days(5)
    written = []
    for day in range(5):
        for table in ("log", "orders"):
            Path(table).mkdir(exist_ok=True)
            shutil.copy(f"all/{table}/{day}.parquet", f"{table}/{day}.parquet")
        written.append(join(window="30h", credit=credit)["written"])
    shutil.move("out", "daily")
    join(window="30h", credit=credit)
    files = sorted(path.name for path in Path("out").glob("*.parquet"))
    assert len(files) == 5
    assert all(Path("out", name).read_bytes() == Path("daily", name).read_bytes() for name in files)
    assert "2026-03-01" not in written[4]


def test_a_late_event_rewrites_the_days_it_touches_and_nothing_new_rewrites_none() -> None:
    write_log(Path("log/a.parquet"), [(n, 1, 7, 24 * n + 1) for n in range(4)])
    write_events(Path("orders/a.parquet"), [(5, 5, 200)])
    assert len(join()["written"]) == 4
    assert join()["written"] == []
    write_events(Path("orders/late.parquet"), [(1, 7, 50)])
    assert join()["written"] == ["2026-03-03"]
    assert labels() == {(0, 7): 0, (1, 7): 0, (2, 7): 1, (3, 7): 0}


def test_days_whose_files_are_gone_stay_as_they_are() -> None:
    write_log(Path("log/a.parquet"), [(0, 1, 7, 1)])
    write_log(Path("log/b.parquet"), [(1, 1, 7, 30)])
    write_events(Path("orders/a.parquet"), [(1, 7, 2), (1, 7, 31), (5, 5, 200)])
    join()
    Path("log/a.parquet").unlink()
    write_events(Path("orders/b.parquet"), [(1, 7, 3)])
    said: list[str] = []
    assert join(report=said.append)["written"] == []
    assert labels() == {(0, 7): 1, (1, 7): 1}
    assert len(said) == 1 and "2026-03-01" in said[0] and "a.parquet" in said[0]


def spoil(what: str) -> None:
    """Make the tables of another call faulty."""
    log, orders = Path("log/b.parquet"), Path("orders/b.parquet")
    write_log(log, [(9, 1, 7, 40)])
    write_events(orders, [(1, 7, 41)])
    frame = pl.read_parquet(orders)
    if what == "no time":
        frame.with_columns(time=pl.lit(None, pl.Datetime("us", "UTC"))).write_parquet(orders)
    elif what == "no column":
        frame.drop("item_id").write_parquet(orders)
    elif what == "future":
        frame.with_columns(pl.col("time").dt.offset_by("90y")).write_parquet(orders)
    elif what == "ids":
        frame.with_columns(pl.col("user_id").cast(pl.String)).write_parquet(orders)
    elif what == "text times":
        frame.with_columns(pl.col("time").cast(pl.String)).write_parquet(orders)
    elif what == "damaged":
        orders.write_bytes(orders.read_bytes()[:200])
    elif what == "timeless request":
        pl.read_parquet(log).with_columns(time=pl.lit(None, pl.Datetime("us", "UTC"))).write_parquet(log)


FAULTS = ("no time", "no column", "future", "ids", "text times", "damaged", "timeless request")


@pytest.mark.parametrize("what", FAULTS)
def test_a_file_that_cannot_join_is_named_in_one_line_and_nothing_changes(what: str) -> None:
    write_log(Path("log/a.parquet"), [(0, 1, 7, 1)])
    write_events(Path("orders/a.parquet"), [(1, 7, 2), (5, 5, 200)])
    join()
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    spoil(what)
    with pytest.raises(DataError) as raised:
        join()
    assert "b.parquet" in str(raised.value) and "\n" not in str(raised.value)
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert not [*Path().glob(".partial*")]


def test_events_that_belong_nowhere_are_reported() -> None:
    write_log(Path("log/a.parquet"), [(0, 1, 7, 1)])
    write_events(Path("orders/a.parquet"), [(None, 7, 2), (5, 5, 200)])
    said: list[str] = []
    join(report=said.append)
    assert any("1 events without user_id, item_id" in line for line in said)
    assert any("none of 1 events" in line for line in said)
    corank.join("log/*.parquet", "other", ["later=orders/*.parquet:buy"], report=said.append)
    assert "'buy'" in said[-1]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"window": "5h"}, "other settings"), ({"credit": "some"}, "credit"), ({"as_of": "soon"}, "--as-of")],
)
def test_a_folder_keeps_its_settings_and_wrong_ones_are_refused(options: dict[str, Any], word: str) -> None:
    write_log(Path("log/a.parquet"), [(0, 1, 7, 1)])
    write_events(Path("orders/a.parquet"), [(1, 7, 2), (5, 5, 200)])
    join()
    with pytest.raises(CorankError, match=word):
        join(**options)


def test_a_label_must_be_new_and_named() -> None:
    write_log(Path("log/a.parquet"), [(0, 1, 7, 1)])
    write_events(Path("orders/a.parquet"), [(1, 7, 2)])
    for label in ([], ["later"], ["later=orders/a.parquet", "later=orders/a.parquet"]):
        with pytest.raises(ConfigError):
            corank.join("log/*.parquet", "out", label)
    with pytest.raises(DataError, match="level"):
        corank.join("log/*.parquet", "out", ["level=orders/a.parquet"])
    with pytest.raises(DataError, match="no join wrote"):
        corank.join("log/*.parquet", "log", ["later=orders/a.parquet"])


def join_in(folder: Path) -> None:
    """Join what is in a folder, for processes of their own."""
    with contextlib.chdir(folder):
        join(window="30h")


@pytest.mark.thorough
def test_a_killed_join_loses_no_row_and_repeats_none(folder: Path) -> None:
    write_days(4)
    for name in ("unbroken", "broken", "counted"):
        shutil.copytree("all", name)
    kills.run(join_in, folder / "unbroken")
    changes = kills.count_changes(join_in, folder / "counted")
    for change in [*range(1, changes, 5), changes - 1, changes]:
        kills.start(kills.call_until, change, join_in, folder / "broken").join()
    kills.run(join_in, folder / "broken")
    for path in Path("unbroken/out").glob("*.parquet"):
        assert path.read_bytes() == Path("broken/out", path.name).read_bytes()
    assert not [*Path("broken").glob(".partial*")]
