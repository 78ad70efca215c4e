"""Texts that stand for missing values: told from values in every form of table, and said either way."""

import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.core.errors import DataError

MISSING = [
    "", " ", "NULL", "null", "Null", "NA", "na", "N/A", "n/a", "N.A.", "#N/A", "<NA>", "nan", "NaN", "-nan", "None",
    "none", "nil", "\\N", "-", "--", "—", "?", "??", ".", "...", "*", "_", "(null)", "[null]", "missing", "unknown",
    "undefined", "unspecified", "not available", "not set", "NaT", "1.#QNAN", "无", "未知",
]  # fmt: skip
VALUES = ["free", "N", "no", "none left", "Nancy", "0x1F", "TBD", "12 EUR"]
LOG = pl.DataFrame({"shown": [[1, 2], [3, 4]] * 20, "clicked": [[0, 1], [1, 0]] * 20})


def items(texts: list[str]) -> pl.DataFrame:
    """Of each text a column of numbers, and one of words, that hold it once."""
    numbers = {f"n{i}": ["1.5", "-2", "30", text] for i, text in enumerate(texts)}
    words = {f"w{i}": ["red", "blue", "red", text] for i, text in enumerate(texts)}
    return pl.DataFrame({"item_id": [1, 2, 3, 4], **numbers, **words})


def written(form: str, table: pl.DataFrame, folder: Path) -> Any:
    path = folder / f"items.{form}"
    match form:
        case "csv":
            table.write_csv(path)
        case "tsv":
            table.write_csv(path, separator="\t")
        case "parquet":
            table.write_parquet(path)
        case _:
            return table
    return path


def imported(folder: Path, table: Any, **more: Any) -> tuple[pl.DataFrame, list[str]]:
    """The table of items as the import writes it, and what it says."""
    out = folder / "out"
    result = corank.import_lists(LOG, out, candidates="shown", labels="clicked", items=table, **more)
    return pl.read_parquet(out / "items.parquet"), list(result.said)


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "frame"])
def test_each_spelling_is_missing_or_a_value_and_said(form: str, tmp_path: Path) -> None:
    table, said = imported(tmp_path, written(form, items([*MISSING, *VALUES]), tmp_path))
    for i, text in enumerate([*MISSING, *VALUES]):
        numbers, words = table[f"n{i}"], table[f"w{i}"]
        of_numbers = [line for line in said if line.startswith(f"n{i}: ")]
        of_words = [line for line in said if line.startswith(f"w{i}: ")]
        if text in VALUES:
            assert numbers.to_list() == ["1.5", "-2", "30", text]
            assert words[3] == text and not of_words
            assert repr(text) in of_numbers[0] and "--nulls" in of_numbers[0]
            continue
        assert numbers.to_list() == [1.5, -2.0, 30.0, None], text
        assert repr(text) in of_numbers[0]
        assert words.null_count() == (not text.strip())
        assert repr(text) in of_words[0] and ("--nulls" in of_words[0]) == bool(text.strip())


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["3", "NULL", "12"], pl.Int64),
        (["true", "N/A", "False"], pl.Boolean),
        (["2026-04-30", "-", None], pl.Date),
        (["2026-04-30 08:15:00", "NULL", "2026-05-01 08:15:00.5"], pl.Datetime),
        (["007", "NULL", "12"], pl.String),  # a code: its zeros count
        (["99999999999999999999", "NULL", "3"], pl.String),  # an id of more than 64 bits
        (["NULL", "NULL", None], pl.String),
    ],
)
def test_the_others_say_what_a_column_is(texts: list[str | None], kind: pl.DataType, tmp_path: Path) -> None:
    table, _ = imported(tmp_path, pl.DataFrame({"item_id": [1, 2, 3, 4], "x": [*texts, None]}))
    assert isinstance(table["x"].dtype, type(kind)) or table["x"].dtype == kind


def test_texts_are_named_by_hand_also_among_numbers(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "item_id": [1, 2, 3, 4],
            "x": ["5", "free", "NULL", "6"],
            "brand": ["a", "NULL", "b", "a"],
            "y": [3, -1, 4, 5],
        }
    )
    read, said = imported(tmp_path, table, nulls=["free", "NULL", "-1"])
    assert read["x"].to_list() == [5, None, None, 6]
    assert read["brand"].to_list() == ["a", None, "b", "a"] and read["y"].to_list() == [3, None, 4, 5]
    assert "y: '-1' (1 row) read as missing" in said


def test_a_text_by_hand_without_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'FREE'.*--nulls"):
        imported(tmp_path, items(["NULL"]), nulls="FREE")
    assert not (tmp_path / "out").exists()


def test_elements_of_lists_and_labels_may_be_missing(tmp_path: Path) -> None:
    log = LOG.with_columns(
        clicked=pl.Series([[0.0, 1.0], [1.0, float("nan")]] * 20),
        price=pl.Series([["1", "NULL"], ["2", "3"]] * 20),
    )
    result = corank.import_lists(log, tmp_path / "out", candidates="shown", labels="clicked")
    written = pl.read_parquet(tmp_path / "out" / "log.parquet")
    assert written["price"].head(2).to_list() == [[1, None], [2, 3]]
    assert written["clicked"].head(2).to_list() == [[0, 1], [1, None]]
    assert {line.partition(":")[0] for line in result.said} >= {"price", "clicked"}


def test_a_late_text_makes_no_category_of_numbers(tmp_path: Path) -> None:
    rows = 12_000
    log = pl.DataFrame(
        {
            "q": [n // 4 for n in range(rows)],
            "i": [n % 50 for n in range(rows)],
            "c": [n % 4 == 0 for n in range(rows)],
        }
    ).with_columns(pl.col("c").cast(pl.Int8), price=pl.int_range(rows).cast(pl.String))
    log = pl.concat([log.head(-1), log.tail(1).with_columns(price=pl.lit("NULL"))])
    log.write_csv(tmp_path / "log.csv")
    result = corank.import_lists(
        tmp_path / "log.csv", tmp_path / "out", candidates="i", labels="c", request="q"
    )
    assert pl.read_parquet(tmp_path / "out" / "log.parquet")["price"].dtype == pl.List(pl.Int64)
    assert any(line.startswith("price: 'NULL' (1 row)") for line in result.said)


def test_a_user_that_is_missing_is_named(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {"u": ["1", "NULL", "3"], "i": [1, 2, 3], "c": [0, 1, 0], "t": [f"2026-01-0{n}" for n in (1, 2, 3)]}
    )
    log.write_csv(tmp_path / "log.csv")
    with pytest.raises(DataError, match="column u, row 2"):
        corank.import_lists(
            tmp_path / "log.csv", tmp_path / "out", candidates="i", labels="c", user="u", time="t"
        )


def test_what_the_import_names_works_when_typed(tmp_path: Path) -> None:
    table = items(["NULL", "free", "无", "-", "N/A"]).drop("n0")
    _, said = imported(tmp_path / "a", table)
    advised = [line.partition("; --nulls ")[2].partition(" reads")[0] for line in said if "--nulls" in line]
    texts = {text for one in advised for text in shlex.split(one)}
    assert texts == {"NULL", "free", "无", "-", "N/A"}
    read, then = imported(tmp_path / "b", table, nulls=sorted(texts))
    assert not any("--nulls" in line for line in then) and read["w1"].to_list() == [
        "red",
        "blue",
        "red",
        None,
    ]
