"""`corank check`: what enters which tower, and every count, with nothing packed and nothing trained."""

from pathlib import Path

import polars as pl
import pytest

import corank
from corank.cli.console import show_check
from corank.core.errors import ConfigError, DataError
from corank.datasets.feed.simulate import simulate_world
from tests.support.shared import small_world
from tests.support.simulated_runs import make_world


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unpacked")
    simulate_world(out, requests=300, candidates=20, users=20, items=80)
    return out / "config.yaml"


def places(config: Path, *overrides: str) -> dict[str, dict[str, str]]:
    return {row["feature"]: row for row in corank.check(config, overrides).features}


def test_each_feature_enters_where_its_side_lets_it(config: Path) -> None:
    found = places(config)
    columns = ("prerank.query", "prerank.item", "rank")
    entered = {name: "".join(row[column] or "-" for column in columns) for name, row in found.items()}
    query = ["user_id", "age", "gender", "city", "activity", "history", "tab", "hour", "device"]
    item = ["item_id", "category", "brand", "price", "quality", "freshness", "tags"]
    expected = dict.fromkeys(query, "x-x") | dict.fromkeys(item, "-xx") | {"category_clicks": "--x"}
    assert entered == expected


def test_its_table_and_where_it_is_read(config: Path) -> None:
    found = places(config)
    assert (found["history"]["table"], found["history"]["side"]) == ("item_id", "user")
    assert (found["price"]["table"], found["price"]["from"]) == ("-", "items")
    assert (found["city"]["table"], found["city"]["from"]) == ("city", "users")
    assert (found["tab"]["from"], found["category_clicks"]["from"]) == ("log", "log")


def test_a_tower_of_chosen_features_has_those_alone(config: Path) -> None:
    found = places(config, "stages.0.query_features=[user_id, tab]", "stages.0.item_features=[brand]")
    assert [name for name, row in found.items() if row["prerank.query"]] == ["user_id", "tab"]
    assert [name for name, row in found.items() if row["prerank.item"]] == ["brand"]
    assert all(row["rank"] == "x" for row in found.values())


DERIVED = (
    "features.categories={side: user, kind: ids, of: history.category}",
    "features.affinity={kind: count, of: [history.category, category]}",
    "features.city_tab={kind: pair, of: [city, tab]}",
    "features.category_tab={kind: prior, by: [category, tab], label: click, buckets: 8}",
    "features.brand_ctr={kind: prior, by: [brand], label: click}",
)


def test_an_operand_alone_enters_nothing(config: Path) -> None:
    found = places(config, *DERIVED, "features.tab={side: context, kind: id, input: false}")
    assert found["tab"] == {"feature": "tab", "side": "context", "kind": "id", "from": "log"} | {
        "table": "no input"
    } | dict.fromkeys(("prerank.query", "prerank.item", "rank"), "")
    assert found["city_tab"]["table"] == "city_tab" and found["city_tab"]["rank"] == "x"


def test_what_is_derived_tells_its_side_kind_and_operands(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = places(config, *DERIVED)
    columns = ("side", "kind", "from", "table", "prerank.query", "prerank.item", "rank")
    assert [[found[name][column] for column in columns] for name in list(found)[-5:]] == [
        ["user", "ids", "history.category", "category", "x", "", "x"],
        ["cross", "count", "history.category, category", "-", "", "", "x"],
        ["context", "pair", "city, tab", "city_tab", "x", "", "x"],
        ["cross", "prior", "category, tab", "category_tab", "", "", "x"],
        ["item", "prior", "brand", "-", "", "x", "x"],
    ]
    show_check(corank.check(config, DERIVED))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["brand_ctr", "item", "prior", "brand", "-"] in lines and ["brand_ctr", "x", "x"] in lines


def test_several_query_towers_have_a_column_each(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = (
        "stages.0.query_towers={person: {features: [user_id, history, tab]}, now: {features: [tab, hour]}}"
    )
    found = places(config, split)
    marks = ("prerank.person", "prerank.now", "prerank.item", "rank")
    assert list(found["tab"])[-4:] == [*marks]
    entered = {name: "".join(row[column] or "-" for column in marks) for name, row in found.items()}
    assert [entered[name] for name in ("user_id", "tab", "hour", "age")] == ["x--x", "xx-x", "-x-x", "---x"]
    assert entered["brand"] == "--xx" and entered["category_clicks"] == "---x"
    show_check(corank.check(config, [split]))
    assert "person" in capsys.readouterr().out


def test_rows_are_those_of_the_files(config: Path) -> None:
    checked = corank.check(config)
    log = pl.read_parquet(config.parent / "log/*.parquet")
    assert checked.rows == {"log": 6000, "items": 80, "users": 20, "truth": 6000}
    day = pl.col("time").dt.date().cast(pl.String)
    valid, test = pl.lit("2026-03-09"), pl.lit("2026-03-10")
    assert checked.splits == {
        "train": log.filter(day < valid).height,
        "valid": log.filter(day == valid).height,
        "test": log.filter(day >= test).height,
    }


def test_who_learns_from_what_is_told(config: Path) -> None:
    asked = [
        "losses=[{kind: click, stage: rank}, {kind: unexposed, stage: prerank, from: [retrieved, catalogue], "
        "per_request: 5, weight: 0.5}, {kind: cascade, form: dftopk, positive: [exposed], on: [ranked, exposed]}]"
    ]
    click, negatives, cascade = corank.check(config, asked).samples
    levels = {"retrieved": "", "ranked": "", "exposed": "", "catalogue": ""}
    assert click == {"loss": "rank.click", "weight": "1", "learns": "rank"} | levels | {"exposed": "all"}
    assert negatives["weight"] == "0.5" and negatives["learns"] == "prerank"
    assert [negatives[n] for n in levels] == ["5", "", "", "5"]
    assert cascade["learns"] == "prerank, rank"
    assert [cascade[n] for n in levels] == ["", "all", "all", ""]


def test_a_log_without_levels_is_told_of(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["data.level=null", "losses=[{kind: click, stage: rank}, {kind: click, stage: prerank}]"]
    cuts = ["stages.0.cuts=[]", "stages.1.cuts=[]"]
    show_check(corank.check(config, [*plain, *cuts]))
    assert "The log has no levels" in capsys.readouterr().out
    show_check(corank.check(config))
    assert "no levels" not in capsys.readouterr().out


def test_nothing_is_written(config: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")}
    corank.check(config)
    assert {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")} == before


def test_what_would_stop_packing_is_told(config: Path) -> None:
    with pytest.raises(
        ConfigError, match="'category_clicks' is a cross feature and cannot enter the query tower"
    ):
        corank.check(config, ["stages.0.query_features=[category_clicks]"])
    with pytest.raises(DataError, match=r"data.log: no column 'tabb'; near ones: tab"):
        corank.check(config, ["features.tab.column=tabb"])
    with pytest.raises(DataError, match=r"absent.parquet: no such file"):
        corank.check(config, ["data.items=absent.parquet"])
    with pytest.raises(DataError, match="no row of the log is in 'test'"):
        corank.check(config, ["data.split.test=2027-01-01"])


def test_it_agrees_with_packing(tmp_path: Path) -> None:
    config = make_world(tmp_path, requests=200)
    packed = corank.pack(config).packed
    counts = {split: sum(s.candidates for s in shards) for split, shards in packed.manifest.splits.items()}
    assert corank.check(config).splits == counts


def test_a_feature_whose_buckets_are_one_is_told_once_it_is_packed(tmp_path: Path) -> None:
    """By `check`, of packed data that are there, and by `train`."""
    config = small_world() / "config.yaml"
    overrides = ["features.never={kind: count, of: [tags, city], buckets: 8, dim: 4}", "train.epochs=1"]
    overrides += ["features.seen={kind: count, of: [history, item_id], buckets: 8, dim: 4}"]
    overrides += [f"packed={tmp_path / 'packed'}"]
    told = "features.never: all its training values lie in one bucket"
    assert told not in "\n".join(corank.check(config, overrides).sufficiency.warnings)
    said: list[str] = []
    corank.train(config, overrides, folder=tmp_path / "run", report=said.append)
    (line,) = [line for line in said if "lie in one bucket" in line]
    assert line.startswith(f"warning: {told}")
    assert f"warning: {corank.check(config, overrides).sufficiency.warnings[-1]}" == line
