"""Old files are not read again, late rows are reported, and `--repack` includes them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.analysis.logged_request import logged_request
from corank.api.runs import PackResult
from corank.core.errors import ConfigError, DataError
from corank.data.tables import RowRange, Table
from tests.support.daily_log import ROWS, config_of, day_of, write_day


def pack_days(folder: Path, days: int) -> list[PackResult]:
    folder.mkdir(exist_ok=True)
    results: list[PackResult] = []
    for n in range(days):
        write_day(folder, n)
        earlier = results[-1]["packed"] if results else None
        results.append(corank.pack(config_of(n, folder), continue_from=earlier))
    return results


def test_a_day_reads_as_many_rows_whichever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    inner = RowRange.read

    def counted(self: RowRange, table: Table, columns: list[pl.Expr]) -> Any:
        read[-1] += self.rows if table.name == "log" else 0
        return inner(self, table, columns)

    monkeypatch.setattr(RowRange, "read", counted)
    results: list[PackResult] = []
    for n in range(10):
        write_day(tmp_path, n)
        read.append(0)
        earlier = results[-1]["packed"] if results else None
        results.append(corank.pack(config_of(n, tmp_path), continue_from=earlier))
    # the day before holds rows that the new day trains on, and those of the priors' last period
    assert len(set(read[2:])) == 1
    # ids churn, and vocabularies, keys of priors and items stay as many
    sizes = [one.packed.encoders.sizes for one in results]
    assert max(size["item"] for size in sizes) <= 25 + 2
    assert max(size["pair"] for size in sizes[6:]) <= max(size["pair"] for size in sizes[3:6]) * 1.2
    keys = [len(one.packed.priors.rates["ctr"].keys) for one in results]
    assert max(keys[6:]) <= max(keys[3:6]) * 1.2
    assert max(len(one.packed.item_keys) for one in results[6:]) <= 25
    state = [
        sum(p.stat().st_size for p in (one.packed.folder / "state/counts").rglob("*")) for one in results
    ]
    assert max(state[6:]) <= max(state[3:6]) * 1.2


def test_old_files_are_not_opened_and_may_be_gone(tmp_path: Path) -> None:
    first, second = pack_days(tmp_path, 2)
    (tmp_path / "log" / f"{day_of(0)}.parquet").unlink()
    write_day(tmp_path, 2)
    third = corank.pack(config_of(2, tmp_path), continue_from=second["packed"])
    assert third["splits"]["train"]["candidates"] == ROWS
    grown = {row["feature"]: row for row in third.tables["grown"].iter_rows(named=True)}
    items = [set(one.packed.encoders.fitted["item"].values) for one in (second, third)]  # type: ignore[attr-defined]
    assert grown["item"]["admitted"] == len(items[1] - items[0]) > 0
    assert grown["item"]["evicted"] == len(items[0] - items[1])
    assert grown["item"]["free"] == 25 - len(items[1])
    assert "grown" not in first.tables
    assert len({one.packed.location for one in (first, second, third)}) == 3
    assert corank.pack(config_of(1, tmp_path), continue_from=first["packed"])["packed"] != second["packed"]


def test_requests_know_events_whose_log_is_gone(tmp_path: Path) -> None:
    pack_days(tmp_path, 3)
    run = corank.train(config_of(2, tmp_path), folder=tmp_path / "run").run
    past = pl.read_parquet(tmp_path / "log/*.parquet").sort("time")
    for n in range(2):
        (tmp_path / "log" / f"{day_of(n)}.parquet").unlink()
    for number in range(3):
        request = logged_request(run, "valid", number)
        before = past.filter(
            pl.col("user") == request["user"]["id"], pl.col("time").dt.timestamp("ms") < request["time"]
        )
        assert request["user"]["history"] == before["item"].tail(5).to_list()


def test_late_rows_are_told_and_taken_in(tmp_path: Path) -> None:
    first, second = pack_days(tmp_path, 2)
    write_day(tmp_path, 2)
    write_day(tmp_path, 1, "-late", rows=7)
    said: list[str] = []
    third = corank.pack(config_of(2, tmp_path), continue_from=second["packed"], report=said.append)
    notices = [line for line in said if "came after" in line]
    assert len(notices) == 1
    assert f"log: 7 rows of {day_of(1)} in " in notices[0]
    assert f"{day_of(1)}-late.parquet" in notices[0]
    assert f"`--repack {day_of(1)}` takes them in" in notices[0]
    config = config_of(2, tmp_path)
    config["data"]["split"]["train"] = f"..{config['data']['split']['train'].partition('..')[2]}"
    again = corank.pack(config, continue_from=second["packed"], repack=day_of(1))
    assert third["splits"]["train"]["candidates"] == ROWS
    assert again["splits"]["train"]["candidates"] == 2 * ROWS + 7
    assert again.packed.manifest.continued is not None
    assert again.packed.manifest.continued.location == first["packed"]
    with pytest.raises(DataError, match=r"--repack: .* is the first packing"):
        corank.pack(config, continue_from=second["packed"], repack=day_of(0))


def test_what_cannot_go_on_is_refused(tmp_path: Path) -> None:
    (first,) = pack_days(tmp_path, 1)
    with pytest.raises(ConfigError, match="--fixed: is about earlier packed data; name them by --from"):
        corank.pack(config_of(0, tmp_path), fixed=True)
    with pytest.raises(DataError, match="holds no packed data and no run"):
        corank.pack(config_of(0, tmp_path), continue_from=tmp_path)
    with pytest.raises(DataError, match=r"no row of the log is in 'train' .* where the earlier packing ends"):
        corank.pack(config_of(0, tmp_path), continue_from=first["packed"])
