"""The log of a service says how a canary and a shadow compare with the live version."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import corank
from corank.core.errors import DataError
from corank.evaluation.rows import Row, name_row
from corank_serve.api.served import ServedComparisonResult
from corank_serve.log.log_format import EXPLORED, SERVED
from corank_serve.log.request_log import OpenLogFiles
from tests.support.command_line import run_corank
from tests.support.served_worlds import ITEMS, ServedWorld


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose canary has twice the clicks."""
    return ServedWorld(lift=2.0).write(tmp_path_factory.mktemp("better"))


def tables(log: Path) -> list[Path]:
    return [log.parent / "exposures.parquet", log.parent / "clicks.csv"]


def of_role(comparison: ServedComparisonResult, role: str) -> dict[str, Row]:
    """The rows of the canary or the shadow by name; those of all data."""
    return {name_row(row): row for row in comparison["rows"] if row["run"] == role}


def test_rates_of_a_canary_are_those_of_its_users_exposures(better: Path) -> None:
    comparison = corank.compare_served(better, tables(better), effect=0.5)
    served = pl.read_parquet(better / "*.parquet", hive_partitioning=False)
    # from the canary's first request to its last
    during = served.filter(pl.col("served_role") == "canary").select(
        pl.col("time").min().alias("first"), pl.col("time").max().alias("last")
    )
    served = served.filter(pl.col("time").is_between(during["first"][0], during["last"][0]))
    shown = pl.read_parquet(tables(better)[0]).join(served, on=["served_id", "item_id"])
    clicks = pl.read_csv(tables(better)[1])
    shown = shown.join(clicks, on=["served_id", "item_id"], how="left").with_columns(
        pl.col("click").fill_null(0)
    )
    canary, rows = comparison["canary"], of_role(comparison, "canary")
    rate = rows["served.click.click per exposure"]
    for key, role in (("a", "canary"), ("b", "live")):
        own = shown.filter(pl.col("served_role") == role)
        assert rate[key] == pytest.approx(own["click"].to_numpy().mean())
        assert canary["requests"][key] == own["served_id"].n_unique()
        assert canary["users"][key] == own["user_id"].n_unique()
    assert canary["verdict"] == rate["verdict"] == "better" and rate["low"] > 0 and rate["p"] < 0.05
    per_request = rows["served.click.click per request"]
    assert per_request["a"] == pytest.approx(3 * rate["a"]) and per_request["verdict"] == "better"
    assert canary["users_in_both"] == 0 and comparison["exposures"] == {"rows": 9000, "unknown": 0}
    # its scores predict half of its clicks
    pcoc = rows["rank.exposed.click.pcoc"]
    assert pcoc["verdict"] == "worse" and pcoc["a"] < 0.7 < pcoc["b"]
    assert set(comparison.frame()["run"]) == {"canary", "shadow"}


def test_requests_whose_page_was_drawn_tell_nothing_of_a_canary(better: Path, tmp_path: Path) -> None:
    drawn, requests = 0, corank.compare_served(better, tables(better))["canary"]["requests"]
    for file in better.glob("*.parquet"):
        table = pq.read_table(file)
        chosen = [name.endswith("0") for name in table["served_id"].to_pylist()]
        explored = pa.array(["uniform:0" if one else None for one in chosen], pa.large_string())
        pq.write_table(table.append_column(EXPLORED, explored), tmp_path / file.name)
        drawn += sum(chosen) // ITEMS
    left = corank.compare_served(tmp_path, tables(better))["canary"]["requests"]
    assert drawn > 200
    # the first and the last request of the canary may be drawn, and others of the live version lie outside of the rest
    assert abs(sum(requests.values()) - sum(left.values()) - drawn) < 40


def test_a_shadow_is_compared_on_the_same_requests(better: Path) -> None:
    comparison = corank.compare_served(better, tables(better), effect=0.5)
    shadow, rows = comparison["shadow"], of_role(comparison, "shadow")
    live = pl.read_parquet(better / "*.parquet", hive_partitioning=False).filter(
        pl.col("served_role") == "live"
    )
    assert shadow["requests"] == live["served_id"].n_unique() and shadow["candidates"] == len(live)
    assert 0.5 < rows["agreement.overlap@10"]["value"] <= 1 and rows["agreement.same_first"]["value"] < 1
    beside = pl.read_parquet(better / "shadow" / "*.parquet")
    both = live.join(beside, on=["served_id", "item_id"], suffix="_b")
    gap = (both["score_prerank_b"] - both["score_prerank"]).to_numpy()
    assert rows["prerank.agreement.score"]["difference"] == pytest.approx(gap.mean())
    assert rows["prerank.agreement.mean_absolute"]["value"] == pytest.approx(np.abs(gap).mean())
    # noise on the scores costs log loss and order
    loss = rows["prerank.served.click.prerank: log loss of click"]
    assert loss["difference"] > 0 and loss["fixed_low"] < loss["difference"] < loss["fixed_high"]
    assert rows["prerank.exposed.click.logloss"]["difference"] == pytest.approx(loss["difference"], rel=0.02)
    auc = rows["prerank.exposed.click.auc"]
    assert auc["a"] < auc["b"]


def test_equal_versions_are_told_apart_by_nothing(tmp_path: Path) -> None:
    log = ServedWorld(noise=0.0).write(tmp_path)
    comparison = corank.compare_served(log, tables(log))
    assert comparison["canary"]["verdict"] in ("no difference shown", "too early")
    rows = of_role(comparison, "shadow")
    names = ("overlap@10", "same_first", "rank_difference@10")
    assert [rows[f"agreement.{name}"]["value"] for name in names] == [1.0, 1.0, 0.0]
    assert comparison["shadow"]["verdict"] == "too early"  # there is not one difference to judge by


def test_the_command_prints_and_writes_a_page(
    better: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [part for table in tables(better) for part in ("--exposures", table)]
    options = [*shown, "--effect", "0.5", "--page", tmp_path / "page.html"]
    code, out, _ = run_corank(capsys, "compare-served", better, *options)
    assert code == 0
    for words in (
        "The canary: better",
        "click per exposure",
        "requests that both ranked",
        "rank: click, exposed",
    ):
        assert words in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The canary: better" in page and "<svg" in page
    code, out, _ = run_corank(capsys, "compare-served", better, "--json", "--since", "1970-01-01T10:00")
    assert code == 0 and not [row for row in json.loads(out)["rows"] if row["population"] == "served"]


def test_requests_in_files_that_are_still_written_are_named(
    better: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_corank(capsys, "compare-served", better)[1].count("not complete yet") == 0
    rows = pa.table({SERVED: ["a"]})
    with ExitStack() as stack:
        for folder in (tmp_path, better, better / "shadow"):
            files = OpenLogFiles(folder, rows.schema)
            stack.callback(files.give_up)
            files.write(rows)
        with pytest.raises(DataError, match=r"1 file is not complete yet, the first begun at 20\d\d-"):
            corank.compare_served(tmp_path)
        with pytest.raises(DataError, match=r"(?s)neither a canary.*2 files are not complete yet"):
            corank.compare_served(better, until="1969-01-01")
        assert "2 files are not complete yet" in run_corank(capsys, "compare-served", better)[1]
    assert corank.compare_served(better)["incomplete"] is None


def test_mistakes_are_told(better: Path, tmp_path: Path) -> None:
    exposures, clicks = tables(better)
    with pytest.raises(DataError, match="no served requests here"):
        corank.compare_served(tmp_path)
    with pytest.raises(DataError, match="neither a canary nor a shadow ranked a request of that time"):
        corank.compare_served(better, until="1969-01-01")
    with pytest.raises(DataError, match="--until: expected ISO 8601"):
        corank.compare_served(better, until="noon")
    with pytest.raises(DataError, match="--alpha: expected a share above 0 and below 1; received 5"):
        corank.compare_served(better, alpha=5)
    with pytest.raises(DataError, match="no column of 0, 1 and null is a label"):
        corank.compare_served(better, [exposures])
    with pytest.raises(DataError, match="--label: no table of exposures has a column 'buy'"):
        corank.compare_served(better, [exposures, clicks], ["buy"])
    rows = pl.read_parquet(exposures)
    for table, message in (
        (rows.drop("served_id"), "no column 'served_id'; an exposure names the item"),
        (rows.with_columns(click=pl.lit(2)), "label 'click' holds 2; expected 0, 1 or null"),
        (
            rows.with_columns(pl.col("item_id").cast(pl.String), click=pl.lit(1)),
            "the item is String, and Int64 in the log",
        ),
    ):
        table.write_parquet(tmp_path / "odd.parquet")
        with pytest.raises(DataError, match=message):
            corank.compare_served(better, [tmp_path / "odd.parquet"], ["click"])
    (tmp_path / "log").mkdir()
    rows.write_parquet(tmp_path / "log" / "served-1.parquet")
    with pytest.raises(DataError, match="does not say which of its columns are what"):
        corank.compare_served(tmp_path / "log")
    (tmp_path / "log" / "served-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        corank.compare_served(tmp_path / "log")
