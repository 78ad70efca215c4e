"""The logs of two services say how their versions compare: of split users, or of mirrored requests."""

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
from tests.support.served_worlds import ITEMS, MODELS, ServedWorld


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of which a has twice the clicks."""
    return ServedWorld(lift=2.0).write(tmp_path_factory.mktemp("better"))


def tables(world: Path) -> list[Path]:
    return [world / "exposures.parquet", world / "clicks.csv"]


def compare_split(world: Path) -> ServedComparisonResult:
    return corank.compare_served(world / "a", world / "b", tables(world), effect=0.5)


def by_name(comparison: ServedComparisonResult) -> dict[str, Row]:
    """The rows of all data."""
    return {name_row(row): row for row in comparison["rows"]}


def test_rates_of_split_users_are_those_of_their_exposures(better: Path) -> None:
    comparison = compare_split(better)
    arms = {side: pl.read_parquet(better / side / "*.parquet") for side in "ab"}
    # while both were served
    since, until = (
        max(min(arm["time"].to_list()) for arm in arms.values()),
        min(max(arm["time"].to_list()) for arm in arms.values()),
    )
    clicks = pl.read_csv(tables(better)[1])
    rows = by_name(comparison)
    rate = rows["served.click.click per exposure"]
    for side, arm in arms.items():
        own = arm.filter(pl.col("time").is_between(since, until))
        shown = pl.read_parquet(tables(better)[0]).join(own, on=["served_id", "item_id"])
        shown = shown.join(clicks, on=["served_id", "item_id"], how="left")
        assert rate[side] == pytest.approx(shown["click"].fill_null(0).to_numpy().mean())
        assert comparison["requests"][side] == own["served_id"].n_unique()
        assert comparison["users"][side] == own["user_id"].n_unique()
        assert comparison["versions"][side] == [MODELS[side]]
    assert comparison["how"] == "split" and comparison["users_in_both"] == 0
    assert comparison["verdict"] == rate["verdict"] == "better" and rate["low"] > 0 and rate["p"] < 0.05
    per_request = rows["served.click.click per request"]
    assert per_request["a"] == pytest.approx(3 * rate["a"]) and per_request["verdict"] == "better"
    assert (comparison["exposures"]["rows"], comparison["exposures"]["unknown"]) == (9000, 0)
    # its scores predict half of its clicks
    pcoc = rows["rank.exposed.click.pcoc"]
    assert pcoc["verdict"] == "worse" and pcoc["a"] < 0.7 < pcoc["b"]


def test_two_versions_of_one_folder_are_compared_as_of_two(better: Path, tmp_path: Path) -> None:
    for side in "ab":
        for file in (better / side).iterdir():
            (tmp_path / f"{file.stem}{side}.parquet").symlink_to(file)
    by_folders = compare_split(better)
    named = corank.compare_served(
        tmp_path, exposures=tables(better), versions=[MODELS["a"], MODELS["b"]], effect=0.5
    )
    assert named["rows"] == by_folders["rows"] and (named["a"], named["b"]) == (MODELS["a"], MODELS["b"])
    found = corank.compare_served(tmp_path)  # the newer one is a
    assert {found["a"], found["b"]} == {MODELS["a"], MODELS["b"]}
    with pytest.raises(DataError, match=f"expected requests of two versions; found {MODELS['a']}"):
        corank.compare_served(better / "a")
    with pytest.raises(DataError, match=r"no requests of that time"):
        corank.compare_served(tmp_path, versions=[MODELS["a"], "other"])


def test_requests_whose_page_was_drawn_tell_nothing(better: Path, tmp_path: Path) -> None:
    drawn, requests = 0, compare_split(better)["requests"]
    for file in better.glob("[ab]/*.parquet"):
        table = pq.read_table(file)
        chosen = [name.endswith("0") for name in table["served_id"].to_pylist()]
        explored = pa.array(["uniform:0" if one else None for one in chosen], pa.large_string())
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        pq.write_table(table.append_column(EXPLORED, explored), tmp_path / file.parent.name / file.name)
        drawn += sum(chosen) // ITEMS
    left = corank.compare_served(tmp_path / "a", tmp_path / "b")["requests"]
    assert drawn > 200
    # the first and the last request of a side may be drawn, and others lie outside of the rest
    assert abs(sum(requests.values()) - sum(left.values()) - drawn) < 40


def test_mirrored_requests_are_paired_by_their_id(better: Path) -> None:
    mirrored, answered = better / "mirrored", better / "b"
    comparison = corank.compare_served(mirrored, answered, tables(better), effect=0.5)
    rows, live = by_name(comparison), pl.read_parquet(answered / "*.parquet")
    assert comparison["how"] == "mirrored" and comparison["requests"] == live["served_id"].n_unique()
    assert comparison["candidates"] == len(live)
    assert 0.5 < rows["agreement.overlap@10"]["value"] <= 1 and rows["agreement.same_first"]["value"] < 1
    both = live.join(pl.read_parquet(mirrored / "*.parquet"), on=["x_request_id", "item_id"], suffix="_a")
    gap = (both["score_prerank_a"] - both["score_prerank"]).to_numpy()
    assert rows["prerank.agreement.score"]["difference"] == pytest.approx(gap.mean())
    assert rows["prerank.agreement.mean_absolute"]["value"] == pytest.approx(np.abs(gap).mean())
    # noise on the scores costs log loss and order
    loss = rows["prerank.served.click.prerank: log loss of click"]
    assert loss["difference"] > 0 and loss["fixed_low"] < loss["difference"] < loss["fixed_high"]
    assert rows["prerank.exposed.click.logloss"]["difference"] == pytest.approx(loss["difference"], rel=0.02)
    auc = rows["prerank.exposed.click.auc"]
    assert auc["a"] < auc["b"]
    with pytest.raises(DataError, match="name the log of what was shown second"):
        corank.compare_served(answered, mirrored, tables(better))
    with pytest.raises(DataError, match="--share: each request is in both logs"):
        corank.compare_served(mirrored, answered, share=0.5)


def test_equal_versions_are_told_apart_by_nothing(tmp_path: Path) -> None:
    world = ServedWorld(noise=0.0).write(tmp_path)
    assert compare_split(world)["verdict"] in ("no difference shown", "too early")
    mirrored = corank.compare_served(world / "mirrored", world / "b", tables(world))
    names = ("overlap@10", "same_first", "rank_difference@10")
    assert [by_name(mirrored)[f"agreement.{name}"]["value"] for name in names] == [1.0, 1.0, 0.0]
    assert mirrored["verdict"] == "too early"  # there is not one difference to judge by


def test_the_command_prints_and_writes_a_page(
    better: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [part for table in tables(better) for part in ("--exposures", table)]
    options = [*shown, "--effect", "0.5", "--page", tmp_path / "page.html"]
    code, out, _ = run_corank(capsys, "compare-served", better / "a", better / "b", *options)
    assert code == 0
    assert all(words in out for words in ("a, split: better", "click per exposure", "rank: click, exposed"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a, split: better" in page and "<svg" in page
    code, out, _ = run_corank(capsys, "compare-served", better / "mirrored", better / "b", *shown)
    assert code == 0 and "requests that both ranked" in out and "a, mirrored: " in out
    code, out, _ = run_corank(
        capsys, "compare-served", better / "a", better / "b", "--json", "--since", "1970-01-01T10:00"
    )
    assert code == 0 and not [row for row in json.loads(out)["rows"] if row["population"] == "served"]


def test_requests_in_files_that_are_still_written_are_named(
    better: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = better / "a", better / "b"
    assert run_corank(capsys, "compare-served", *logs)[1].count("not complete yet") == 0
    rows = pa.table({SERVED: ["a"]})
    with ExitStack() as stack:
        for folder in (tmp_path, *logs):
            files = OpenLogFiles(folder, rows.schema)
            stack.callback(files.give_up)
            files.write(rows)
        with pytest.raises(DataError, match=r"1 file is not complete yet, the first begun at 20\d\d-"):
            corank.compare_served(tmp_path)
        with pytest.raises(DataError, match=r"(?s)no requests of that time.*2 files are not complete yet"):
            corank.compare_served(*logs, until="1969-01-01")
        assert "2 files are not complete yet" in run_corank(capsys, "compare-served", *logs)[1]
    assert corank.compare_served(*logs)["incomplete"] is None


def test_mistakes_are_told(better: Path, tmp_path: Path) -> None:
    logs, (exposures, clicks) = (better / "a", better / "b"), tables(better)
    with pytest.raises(DataError, match="no served requests here"):
        corank.compare_served(tmp_path)
    with pytest.raises(DataError, match="--version: expected that of a and that of b; received x"):
        corank.compare_served(*logs, versions=["x"])
    with pytest.raises(DataError, match="--until: expected ISO 8601"):
        corank.compare_served(*logs, until="noon")
    with pytest.raises(DataError, match="--alpha: expected a share above 0 and below 1; received 5"):
        corank.compare_served(*logs, alpha=5)
    with pytest.raises(DataError, match="no column of 0, 1 and null is a label"):
        corank.compare_served(*logs, [exposures])
    with pytest.raises(DataError, match="--label: no table of exposures has a column 'buy'"):
        corank.compare_served(*logs, [exposures, clicks], ["buy"])
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
            corank.compare_served(*logs, [tmp_path / "odd.parquet"], ["click"])
    (tmp_path / "log").mkdir()
    rows.write_parquet(tmp_path / "log" / "served-1.parquet")
    with pytest.raises(DataError, match="does not say which of its columns are what"):
        corank.compare_served(tmp_path / "log")
    (tmp_path / "log" / "served-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        corank.compare_served(tmp_path / "log")
