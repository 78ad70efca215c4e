"""The KuaiRand-Pure importer: tiny files in the official layout, and the real slice where it lies."""

import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.datasets.kuairand import LOGS, USERS, VIDEOS, import_kuairand
from corank.training.config.config_file import read
from tests.support.kuairand_files import LOG_HEADER, Release, exposure

EARLY, STANDARD, RANDOM = LOGS
SLICE = os.environ.get("CORANK_KUAIRAND")


@pytest.mark.parametrize("subfolder", ["", "data"])
def test_tables_hold_the_files_values(tmp_path: Path, subfolder: str) -> None:
    release = Release(logs={STANDARD: [exposure(7, 11, "2022-04-29T00:30:00.123", click=1, long_view=1)]})
    release.write(tmp_path / "in" / subfolder)
    import_kuairand(tmp_path / "in", tmp_path / "out")

    (row,) = pl.read_parquet(tmp_path / "out/log.parquet").rows(named=True)
    assert (row["user_id"], row["video_id"], row["tab"], row["policy"]) == (7, 11, 1, "standard")
    assert (row["is_click"], row["long_view"], row["is_like"], row["play_time_ms"]) == (1, 1, 0, 900)
    assert row["time"] == datetime(2022, 4, 28, 16, 30, 0, 123_000, tzinfo=UTC)
    assert row["hour"] == 0  # China's, whatever date and hourmin say

    first, second = pl.read_parquet(tmp_path / "out/users.parquet").rows(named=True)
    assert (first["user_id"], first["onehot_feat4"], first["fans_user_num_range"]) == (0, 1, "[100,1k)")
    assert (second["is_live_streamer"], second["onehot_feat4"], second["onehot_feat17"]) == (-124, None, None)

    items = pl.read_parquet(tmp_path / "out/items.parquet")
    assert items["video_id"].to_list() == [10, 11, 12]
    assert items["tag"].to_list() == ["39", "20,43", None]
    assert items["video_duration"].to_list() == [87433, None, 5000]
    assert items["music_type"].to_list() == [9, None, 4]
    # 2022-04-10 is 52 years, 13 of them leap, and 99 days after 1970-01-01.
    assert items["upload_day"].to_list() == [52 * 365 + 13 + 99, 52 * 365 + 13 + 98, 52 * 365 + 13 + 98]


def test_repeats_are_dropped_counted_and_said(tmp_path: Path) -> None:
    rows = [
        exposure(0, 10, "2022-04-28T12:00:00", click=1, hourmin=1200),
        exposure(0, 11, "2022-04-28T12:00:00"),
        exposure(0, 10, "2022-04-28T12:00:00", click=1, hourmin=1300),
        exposure(7, 10, "2022-04-28T12:00:00"),
        exposure(7, 11, "2022-04-28T12:00:00", tab=6),
        exposure(0, 10, "2022-04-28T12:00:00", click=0, hourmin=1200),
    ]
    said: list[str] = []
    imported = import_kuairand(
        Release(logs={STANDARD: rows}).write(tmp_path / "in"), tmp_path / "out", said.append
    )

    log = pl.read_parquet(tmp_path / "out/log.parquet")
    assert log.select("user_id", "video_id", "is_click").rows() == [
        (0, 10, 1),
        (0, 11, 0),
        (7, 10, 0),
        (7, 11, 0),
    ]
    # User 7's two rows are two requests: they come from two tabs.
    assert (imported.rows, imported.repeats, imported.requests) == (4, 2, 3)
    assert any("2 rows dropped" in line for line in said)


def test_logs_are_joined_by_time_and_random_rows_marked(tmp_path: Path) -> None:
    logs = {
        RANDOM: [exposure(7, 12, "2022-04-28T08:00:00"), exposure(0, 10, "2022-04-27T08:00:00")],
        STANDARD: [exposure(0, 10, "2022-04-27T08:00:00", click=1), exposure(7, 10, "2022-04-30T23:59:59")],
        EARLY: [exposure(7, 11, "2022-04-08T00:00:00")],
    }
    imported = import_kuairand(Release(logs=logs).write(tmp_path / "in"), tmp_path / "out")
    log = pl.read_parquet(tmp_path / "out/log.parquet")
    assert log["time"].is_sorted()
    assert log.select("video_id", "policy", "is_click").rows() == [
        (11, "standard", 0),
        (10, "standard", 1),  # before the random log's row of the same candidate
        (12, "random", 0),
        (10, "standard", 0),
    ]
    assert (imported.random_rows, imported.users, imported.items) == (1, 2, 3)
    assert imported.days == tuple(date(2022, 4, day) for day in (8, 27, 28, 30))


@pytest.mark.parametrize(
    ("days", "split", "trainable"),
    [
        (["04-28", "04-29", "04-30", "05-01"], ("04-29", "04-30"), True),
        (["04-08", "04-09", "04-12"], ("04-09", "04-12"), True),
        (["04-29", "05-01"], ("04-29", "05-01"), False),
        (["04-12"], ("04-11", "04-12"), False),
    ],
)
def test_split(tmp_path: Path, days: list[str], split: tuple[str, str], trainable: bool) -> None:
    release = Release(logs={STANDARD: [exposure(0, 10, f"2022-{day}T00:00:00") for day in days]})
    said: list[str] = []
    imported = import_kuairand(release.write(tmp_path / "in"), tmp_path / "out", said.append)
    valid, test = (date.fromisoformat(f"2022-{day}") for day in split)
    assert (imported.valid, imported.test) == (valid, test)
    split_read = read(tmp_path / "out/config.yaml").data.split
    assert (split_read.valid, split_read.test) == (valid, test)
    assert any("nothing to train on" in line for line in said) is not trainable


def test_config_declares_every_feature_of_the_tables(tmp_path: Path) -> None:
    import_kuairand(Release().write(tmp_path / "in"), tmp_path / "out")
    config = read(tmp_path / "out/config.yaml")
    assert config.data.request == ["user_id", "time", "tab"]
    assert {name: label.column for name, label in config.data.labels.items()} == {
        "click": "is_click",
        "long_view": "long_view",
    }
    histories = config.declared.histories()
    assert {name: history.event for name, history in histories.items()} == {
        "click_history": "click",
        "long_view_history": "long_view",
    }
    for side, table in (("user", "users"), ("item", "items")):
        declared = {n for n, feature in config.declared.columns().items() if feature.side == side}
        assert declared == set(pl.read_parquet_schema(tmp_path / f"out/{table}.parquet"))
    context = {n for n, feature in config.declared.columns().items() if feature.side == "context"}
    assert context == {"tab", "hour"} <= set(pl.read_parquet_schema(tmp_path / "out/log.parquet"))


def replace(table: str, row: int, old: str, new: str) -> Callable[[Release], None]:
    """Change a text in a row of users, videos or the log; the first row of users and videos is the header."""

    def spoil(release: Release) -> None:
        lines: list[str] = release.logs[STANDARD] if table == "log" else getattr(release, table)
        lines[row] = lines[row].replace(old, new, 1)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (replace("videos", 0, ",music_id", ",song"), [VIDEOS, "no column music_id"]),
        (replace("users", 2, "-124", "maybe"), [USERS, "column is_live_streamer, row 2", "whole number", "'maybe'"]),
        (replace("log", 2, ",0,0,1", ""), [STANDARD, "column tab, row 3", "received nothing"]),
        (lambda release: release.videos.append(release.videos[1]), [VIDEOS, "video_id 10 has several rows"]),
        (lambda release: release.logs.update({STANDARD: [], EARLY: []}), [STANDARD, EARLY, "no rows"]),
    ],
)  # fmt: skip
def test_faulty_files_are_named_and_nothing_is_left(
    tmp_path: Path, spoil: Callable[[Release], None], told: list[str]
) -> None:
    release = Release()
    spoil(release)
    release.write(tmp_path / "in")
    with pytest.raises(DataError) as error:
        import_kuairand(tmp_path / "in", tmp_path / "out")
    assert all(part in str(error.value) for part in told), str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_files_that_are_not_there_or_no_csv_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        import_kuairand(tmp_path / "nowhere", tmp_path / "out")
    for name in (USERS, VIDEOS):
        folder = Release().write(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(DataError, match=name):
            import_kuairand(folder, tmp_path / "out")
    for content in (b"", b"\x89PNG\r\n\x1a\n\x00\x00", LOG_HEADER.encode() + b"\n\xff\xfe,1\n"):
        (Release().write(tmp_path / "in") / STANDARD).write_bytes(content)
        with pytest.raises(DataError, match=STANDARD):
            import_kuairand(tmp_path / "in", tmp_path / "out")


@pytest.mark.realdata
@pytest.mark.skipif(SLICE is None, reason="CORANK_KUAIRAND names no KuaiRand-Pure")
def test_the_slice(tmp_path: Path) -> None:
    imported = import_kuairand(Path(str(SLICE)), tmp_path / "out")
    assert (imported.rows, imported.repeats, imported.random_rows) == (94_784 - 2_979, 2_979, 0)
    assert (imported.users, imported.items, imported.requests) == (27_285, 7_583, 91_176)
    assert (imported.valid, imported.test) == (date(2022, 4, 29), date(2022, 4, 30))
    log = pl.read_parquet(tmp_path / "out/log.parquet")
    assert log.select("user_id", "video_id", "time").is_unique().all()
