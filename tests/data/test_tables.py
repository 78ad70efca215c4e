from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.data.tables import Table
from corank.data.validate import check_rows, whole_checks
from corank.features.log_schema import DataSettings

FRAME = pl.DataFrame({"item": [3, 1, 2], "name": ["c", None, "b"], "price": [0.5, None, 2.0]})


def settings(**changed: object) -> DataSettings:
    plain = {
        "log": "log.parquet",
        "request": ["request"],
        "user": "user",
        "item": "item",
        "time": "time",
        "labels": {"click": {"column": "click"}},
        "split": {"valid": "2026-04-29", "test": "2026-04-30"},
    }
    return DataSettings.model_validate(plain | changed)


def write(frame: pl.DataFrame, path: Path) -> None:
    match path.suffix:
        case ".parquet":
            frame.write_parquet(path)
        case ".csv":
            frame.write_csv(path)
        case _:
            frame.write_ipc(path)


def scanned(folder: Path, frame: pl.DataFrame, ending: str = ".parquet") -> Table:
    write(frame, folder / f"t{ending}")
    return Table.scan("items", f"t{ending}", folder)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".feather"])
def test_every_format_reads_the_same(tmp_path: Path, ending: str) -> None:
    table = scanned(tmp_path, FRAME, ending)
    assert table.collect(table.frame).equals(FRAME)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".feather"])
def test_batches_keep_order(tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame({"n": range(1000)})
    table = scanned(tmp_path, frame, ending)
    batches = list(table.batches([pl.col("n")], 1000, 300))
    assert pl.concat(batches)["n"].to_list() == list(range(1000))
    assert max(map(len, batches)) <= 300


def test_glob_list_and_absolute_path_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for name, frame in (("b", FRAME[2:]), ("a", FRAME[:2])):
        frame.write_parquet(tmp_path / "log" / f"{name}.parquet")
    sources: list[str | list[str]] = [
        "log/*.parquet",
        ["log/a.parquet", str(tmp_path / "log/b.parquet")],
        str(tmp_path / "l*/*.parquet"),
    ]
    for source in sources:
        table = Table.scan("items", source, tmp_path)
        assert table.collect(table.frame).equals(FRAME)


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    for name in ("a.csv", "b.parquet", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"data\.log: expected files of one format"):
        Table.scan("log", ["a.csv", "b.parquet"], tmp_path)
    with pytest.raises(DataError, match=r"received .*c\.txt"):
        Table.scan("log", "c.txt", tmp_path)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"data\.log: .*log\.parquet cannot be read"):
        Table.scan("log", "log.parquet", tmp_path)


def test_missing_column_names_table_and_near_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.items: no column 'prise'; near ones: price"):
        scanned(tmp_path, FRAME).require(["item", "prise"])


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([1_000], dtype=pl.Int32),
        pl.Series([datetime(1970, 1, 1, 0, 0, 1)], dtype=pl.Datetime("us")),
        pl.Series([datetime(1970, 1, 1, 8, 0, 1, tzinfo=timezone(timedelta(hours=8)))]).cast(
            pl.Datetime("ns", "UTC")
        ),
        pl.Series([datetime(1970, 1, 1, 0, 0, 1)])
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone("Asia/Shanghai"),
    ],
)
def test_times_are_milliseconds_of_utc(tmp_path: Path, values: pl.Series) -> None:
    table = scanned(tmp_path, values.alias("time").to_frame())
    assert table.collect(table.frame.select(table.moment("time"))).to_series().to_list() == [1000]


def test_dates_begin_at_midnight_utc_in_csv_too(tmp_path: Path) -> None:
    frame = pl.DataFrame({"time": [date(1970, 1, 2)]})
    for ending in (".parquet", ".csv"):
        table = scanned(tmp_path, frame, ending)
        assert table.collect(table.frame.select(table.moment("time"))).item() == 86_400_000


@pytest.mark.parametrize("values", [["yesterday"], [1.5]])
def test_what_is_no_time_is_refused(tmp_path: Path, values: list[object]) -> None:
    with pytest.raises(DataError, match=r"column 'time' is (String|Float64); expected a time"):
        scanned(tmp_path, pl.DataFrame({"time": values})).moment("time")


def test_keys_are_whole_numbers_or_text(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"a": [2.0, None], "b": [True, False], "c": pl.Series(["x", "y"], dtype=pl.Categorical())}
    )
    table = scanned(tmp_path, frame)
    keys = table.collect(table.frame.select(table.key(column) for column in "abc"))
    assert keys.rows() == [(2, 1, "x"), (None, 0, "y")]
    assert keys.dtypes == [pl.Int64, pl.Int64, pl.String]


def test_fractions_are_no_keys(tmp_path: Path) -> None:
    table = scanned(tmp_path, pl.DataFrame({"a": [1.0, 2.5], "b": [1.0, None]}))
    check_rows(table, whole_checks(table, ["b"]))
    with pytest.raises(DataError, match=r"column 'a' identifies, but holds 2\.5"):
        check_rows(table, whole_checks(table, ["a"]))


def test_lists_are_no_keys(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected whole numbers or text"):
        scanned(tmp_path, pl.DataFrame({"a": [[1]]})).key("a")


def test_splits_begin_with_the_day_of_the_time_zone() -> None:
    eight_hours = 8 * 3600 * 1000
    assert settings().training_end() == 1777420800000
    assert settings(timezone="Asia/Shanghai").training_end() == 1777420800000 - eight_hours
