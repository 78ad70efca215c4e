"""The importer of one's own log, of rows of exposures: grouped, they are the log that lists are."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import corank
from corank.core.errors import DataError
from corank.datasets import exposures

FEW = ["train.epochs=10"]
"""What these logs are trained by: validation has too little to stop by."""
ROLES: dict[str, Any] = {"candidates": "item_id", "labels": "click", "user": "user_id", "time": "time"}
KEYED = ROLES | {"request": "request"}


def exposed(requests: int = 60, size: int = 3) -> pl.DataFrame:
    """Rows of requests four hours apart, of their users and devices; each candidate has a price and a label."""
    rows = range(requests * size)
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "request": [f"r{n // size}" for n in rows],
            "user_id": [n // size % 7 for n in rows],
            "time": [begin + timedelta(hours=4 * (n // size)) for n in rows],
            "device": ["ios" if n // size % 2 else "android" for n in rows],
            "item_id": [n % 11 for n in rows],
            "price": [n * 7 % 50 for n in rows],
            "click": [int(n % 4 == 0) for n in rows],
        }
    )


def as_lists(rows: pl.DataFrame) -> pl.DataFrame:
    """The same log with a row an impression."""
    keys = ("request", "user_id", "time", "device")
    return rows.group_by(keys, maintain_order=True).agg("item_id", "price", "click")


def log_of(imported: corank.ImportResult) -> pl.DataFrame:
    return pl.read_parquet(imported.config.with_name("log.parquet"))


def test_rows_of_a_csv_file_become_the_log_that_lists_are(tmp_path: Path) -> None:
    rows = exposed()
    rows.write_csv(tmp_path / "rows.csv")
    by_rows = corank.import_lists(tmp_path / "rows.csv", tmp_path / "a", **KEYED)
    by_lists = corank.import_lists(as_lists(rows), tmp_path / "b", **KEYED)
    assert_frame_equal(log_of(by_rows), log_of(by_lists), check_column_order=False)
    assert by_rows.config.read_text() == by_lists.config.read_text()
    assert by_rows.said == ("180 exposures are 60 requests by 'request', 3.0 each", *by_lists.said)
    checked = corank.check(by_rows.config, FEW)
    checked.require()
    assert checked.rows["log"] == 180 and {"device", "price", "price_rank"} <= {*checked.config.features}


def test_rows_are_grouped_by_user_and_time_in_whatever_order_and_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = exposed().sort("request", maintain_order=True)  # r0, r1, r10, …
    (tmp_path / "rows").mkdir()
    rows.head(77).write_csv(tmp_path / "rows" / "a.csv")
    rows.slice(77).write_csv(tmp_path / "rows" / "b.csv")
    whole = log_of(corank.import_lists(tmp_path / "rows", tmp_path / "whole", **ROLES))
    assert whole["time"].is_sorted() and whole["impression"].to_list() == [*range(60)]
    assert_frame_equal(whole.drop("impression"), as_lists(exposed()), check_column_order=False)
    monkeypatch.setattr(exposures, "PART", 20)
    assert log_of(corank.import_lists(tmp_path / "rows", tmp_path / "parts", **ROLES)).equals(whole)
    assert not [path for path in (tmp_path / "parts").iterdir() if path.is_dir()], (
        "no files of its work remain"
    )


def test_times_that_differ_within_a_request_are_its_earliest(tmp_path: Path) -> None:
    rows = exposed().with_columns(pl.col("time") + pl.duration(seconds=pl.int_range(pl.len()) % 3))
    imported = corank.import_lists(rows.reverse(), tmp_path / "out", **KEYED)
    assert log_of(imported)["time"].to_list() == as_lists(exposed())["time"].to_list()
    assert "60 requests have rows of several times: the earliest counts" in imported.said


@pytest.mark.parametrize("roles", [ROLES, {"candidates": "item_id", "labels": "click"}])
def test_rows_that_nothing_groups_are_requests_of_their_own(tmp_path: Path, roles: dict[str, Any]) -> None:
    rows = exposed(size=1)
    rows = rows if "time" in roles else rows.drop("time", "user_id")
    imported = corank.import_lists(rows, tmp_path / "out", **roles, along="price")
    log = log_of(imported)
    assert log["item_id"].list.len().to_list() == [1] * 60
    assert log["item_id"].explode().to_list() == rows["item_id"].to_list()
    assert isinstance(log.schema["price"], pl.List) and log.schema["device"] == pl.String
    assert "each row is a request of its own, which has no order to judge (NDCG)" in imported.said[0]
    corank.check(imported.config, FEW).require()


@pytest.mark.parametrize(("unit", "by"), [("seconds", 10**6), ("milliseconds", 10**3), ("microseconds", 1)])
def test_numbers_since_1970_and_texts_are_times(tmp_path: Path, unit: str, by: int) -> None:
    expected = as_lists(exposed())["time"].to_list()
    numbers = exposed().with_columns(pl.col("time").dt.epoch("us") // by)
    imported = corank.import_lists(numbers, tmp_path / "numbers", **KEYED)
    assert imported.said[0] == f"time: 'time' is read as {unit} since 1970"
    texts = exposed().with_columns(pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S"))
    as_text = corank.import_lists(texts, tmp_path / "texts", **KEYED)
    assert log_of(imported)["time"].to_list() == log_of(as_text)["time"].to_list() == expected


def test_types_of_csv_files_are_those_of_all_rows_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = exposed().with_columns(pl.col("item_id").cast(pl.String), code=pl.lit("7"), amount=pl.lit("1"))
    odd = [[*rows["item_id"][:-1].to_list(), "x12"], ["7"] * 179 + ["b"], ["1"] * 179 + ["2.5"]]
    names = ("item_id", "code", "amount")
    rows = rows.with_columns(pl.Series(name, values) for name, values in zip(names, odd, strict=True))
    rows.head(90).write_csv(tmp_path / "in" / "a.csv")
    rows.slice(90).write_csv(tmp_path / "in" / "b.csv")
    log = log_of(corank.import_lists(tmp_path / "in", tmp_path / "out", **KEYED))
    assert log.schema["item_id"] == pl.List(pl.String) and log["item_id"].explode()[-1] == "x12"
    assert log.explode("code")["code"].unique().sort().to_list() == ["7", "b"]
    assert log.explode("amount")["amount"].max() == 2.5


CSV = exposed().write_csv().encode()
BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "rows.csv: cannot be read: empty CSV"),
    "a header alone": (CSV.partition(b"\n")[0], "rows.csv: no rows"),
    "a field too many": (CSV.removesuffix(b"\n") + b",8\n", "line 181 has 8 fields, and the first line 7"),
    "no text": (CSV + b"\xff\xfe,1\n", "rows.csv: line 182 has the byte 0xff, which is no UTF-8"),
    "a name twice": (b"item_id," + CSV.replace(b"\n", b"\n1,").removesuffix(b"1,"), "columns have the name 'item_id'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_no_table_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    content, told = BROKEN[case]
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        corank.import_lists(tmp_path / "rows.csv", tmp_path / "out", **KEYED)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert [*tmp_path.iterdir()] == [tmp_path / "rows.csv"]


def last(column: str, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Replace a value of the last row."""
    return lambda rows: rows.with_columns(
        pl.Series(column, [*rows[column].to_list()[:-1], value], strict=False)
    )


def everywhere(column: str, value: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Replace a column."""
    return lambda rows: rows.with_columns(value.alias(column))


UNFIT: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame] | None, dict[str, str], str]] = {
    "a label of text": (everywhere("click", pl.lit("yes")), {}, "'click' (--labels) is String; expected 0 and 1"),
    "a label 2": (last("click", 2), {}, "column click, row 180: expected 0, 1, or nothing where it is unknown; rece"),
    "a list of labels": (everywhere("click", pl.lit([1])), {}, "'click' (--labels) is List(Int64); expected 0 and 1"),
    "no item": (last("item_id", None), {}, "column item_id, row 180: expected an item in every row"),
    "no user": (last("user_id", None), {}, "column user_id, row 180: expected a value in every row"),
    "no time": (last("time", None), {}, "column time, row 180: expected a value in every row"),
    "no request": (last("request", None), {}, "column request, row 180: expected a value in every row"),
    "a float item": (everywhere("item_id", pl.lit(1.5)), {}, "is Float64; expected whole numbers or text, or lists"),
    "a huge item": (everywhere("item_id", pl.lit(2**63, pl.UInt64)), {}, "row 1: expected ids of 64 bits; write larg"),
    "no time at all": (everywhere("time", pl.lit("soon")), {}, "time, row 1: expected times of one form, such as 2026"),
    "small numbers": (everywhere("time", pl.lit(5)), {}, "holds 5 to 5; expected times, or seconds or milliseconds"),
    "chosen items": (None, {"labels": "", "chosen": "click"}, "so that a row is an exposure; name columns"),
    "a history": (None, {"history": "price"}, "column 'price' (--history) is Int64; expected lists"),
    "several users": (last("user_id", 9), {}, "in: the request request=r59 has rows of several values of 'user_id'; "),
    "a time that is not named": (None, {"time": ""}, "'time' has the name of times; name it as --time"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_rows_that_cannot_be_exposures_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, more, told = UNFIT[case]
    (tmp_path / "in").mkdir()
    (spoil(exposed()) if spoil else exposed()).write_parquet(tmp_path / "in" / "a.parquet")
    with pytest.raises(DataError) as error:
        corank.import_lists(tmp_path / "in", tmp_path / "out", **(KEYED | more))
    assert told in str(error.value) and "\n" not in str(error.value)
    assert [*tmp_path.iterdir()] == [tmp_path / "in"]


def test_names_of_the_log_stay(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {
            "search": [n // 4 for n in range(400)],
            "prop_id": [n % 40 for n in range(400)],
            "liked": [int(n % 4 == 0) for n in range(400)],
            "is_sold": [int(n % 8 == 0) for n in range(400)],
        }
    )
    labels = ["liked", "is_sold"]
    imported = corank.import_lists(log, tmp_path / "out", "prop_id", labels, request="search")
    checked = corank.check(imported.config)
    data = checked.config.data
    assert data.item == "prop_id" and [*data.labels] == ["liked", "sold"]
    assert [stage.main for stage in checked.config.stages] == ["liked", "liked"]
    text = imported.config.read_text()
    assert "item_id" not in text and "label: click" not in text and "event: click" not in text


def test_what_training_rows_do_not_tell_is_no_feature(tmp_path: Path) -> None:
    days = 40
    rows = [
        {
            "search": n,
            "user_id": n % 9,
            "time": f"2026-03-{1 + n * 10 // 1200:02d}T00:{n // 60 % 60:02d}:{n % 60:02d}",
            "item_id": 4 * (n % 10) + place,
            "is_click": int(place == n % 4),
            "price": float(place),
            "late": 7.0 if n < 1000 else float(n),
            "flag": 1.0 if n % 3 else None,
        }
        for n in range(days * 30)
        for place in range(4)
    ]
    items = pl.DataFrame(
        {"item_id": range(60), "kind": [1] * 40 + [2] * 20, "size": [float(n % 7) for n in range(60)]}
    )
    imported = corank.import_lists(
        pl.DataFrame(rows), tmp_path / "out", candidates="item_id", labels="is_click", request="search",
        user="user_id", time="time", items=items,
    )  # fmt: skip
    features = corank.check(imported.config).config.features
    assert not {"late", "kind", "candidates"} & {*features} and {"price", "size"} <= {*features}
    assert features["flag"].kind == "id"
    said = {line.split(":")[1].strip() for line in imported.said if line.startswith("left out: ")}
    assert {"late", "kind"} <= said
    warned = [f.where for f in corank.check(imported.config).findings if "one bucket" in f.what]
    assert not warned
    changed = corank.check(
        imported.config, overrides=["features.late_={side: context, kind: bucket, column: late}"]
    )
    assert "features.late_" in [f.where for f in changed.findings if "one bucket" in f.what]
