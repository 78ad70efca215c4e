"""Tables: their files, types and faults by file and line, ranges of their rows, and the rows of items by time."""

import pickle
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corank.core.errors import DataError, MissingObjectError, StorageError
from corank.core.time import NEVER
from corank.data.packed.inputs import fingerprint
from corank.data.point_in_time import VersionedRows
from corank.data.tables import Table, cut_table, find_source_files
from corank.features.log_schema import FROM, ID
from corank.features.schema import Schema
from tests.support.configs import data_settings
from tests.support.object_store import ObjectStore

FRAME = pl.DataFrame({"item": [3, 1, 2], "name": ["c", None, "b"], "price": [0.5, None, 2.0]})


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


def paths(source: str | list[str], base: Path) -> list[str]:
    """The files of a source."""
    return [file.path for file in find_source_files(source, base)]


# Files


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


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("nowhere.parquet", r"nowhere\.parquet: no such file \(check the path\)"),
        ("folder/", r"it is a folder; write folder/\*\.parquet"),
        ("b.parquet", r"data\.log: .*b\.parquet cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, source: str | list[str], told: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.csv", "b.parquet", "c.txt"):
        (tmp_path / name).write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=told):
        Table.scan("log", source, tmp_path)


def test_objects_are_found_by_globs_and_read(object_store: ObjectStore, tmp_path: Path) -> None:
    write(FRAME, tmp_path / "t.parquet")
    for name in ("log/day=1/b", "log/day=1/c", "log/day=2/a"):
        object_store.put(f"{name}.parquet", (tmp_path / "t.parquet").read_bytes())
    url = object_store.url
    assert paths(f"{url}/log/**/a.parquet", tmp_path) == [f"{url}/log/day=2/a.parquet"]
    assert paths(f"{url}/l*/*/*.parquet", tmp_path) == [
        f"{url}/log/{name}.parquet" for name in ("day=1/b", "day=1/c", "day=2/a")
    ]
    table = Table.scan("items", [f"{url}/log/day=1/*.parquet", f"{url}/log/day=2/a.parquet"], tmp_path)
    assert table.collect(table.frame).equals(pl.concat([FRAME] * 3))


def test_an_object_that_is_not_there_is_named_and_a_changed_one_changes_the_fingerprint(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    write(FRAME, tmp_path / "t.parquet")
    object_store.put("log/a.parquet", (tmp_path / "t.parquet").read_bytes())
    with pytest.raises(MissingObjectError, match=r"/log/\*\.csv: no such object"):
        paths(f"{object_store.url}/log/*.csv", tmp_path)
    with pytest.raises(MissingObjectError, match=r"/log: is a folder; write .*/log/\*\.parquet"):
        paths(f"{object_store.url}/log/", tmp_path)
    with pytest.raises(StorageError, match="there is no bucket s3://no-such-bucket"):
        paths("s3://no-such-bucket/log/*.parquet", tmp_path)
    data = data_settings(log=f"{object_store.url}/log/*.parquet")
    before = fingerprint(data, Schema({}), tmp_path)
    assert fingerprint(data, Schema({}), tmp_path / "elsewhere") == before
    content = object_store.get("log/a.parquet")
    object_store.put("log/a.parquet", content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    assert fingerprint(data, Schema({}), tmp_path) != before


# Columns


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([86_401_000], dtype=pl.Int32),
        pl.Series([datetime(1970, 1, 2, 0, 0, 1)], dtype=pl.Datetime("us")),
        pl.Series([datetime(1970, 1, 2, 8, 0, 1, tzinfo=timezone(timedelta(hours=8)))]).cast(
            pl.Datetime("ns", "Asia/Shanghai")
        ),
    ],
)
def test_times_are_milliseconds_of_utc(tmp_path: Path, values: pl.Series) -> None:
    table = scanned(tmp_path, values.alias("time").to_frame())
    assert table.collect(table.frame.select(table.moment("time"))).item() == 86_401_000
    for ending in (".parquet", ".csv"):
        table = scanned(tmp_path, pl.DataFrame({"time": [date(1970, 1, 2)]}), ending)
        assert table.collect(table.frame.select(table.moment("time"))).item() == 86_400_000


# Faults of CSV files

MANY = b"1,2\n" * 10_001
"""Rows beyond those from which the types of columns are inferred."""
TEXT = "; save the file as text in UTF-8"
FIELDS = " fields, and the first line 2; quote text that holds a comma"


def csv_refusal(folder: Path, content: bytes) -> str:
    (folder / "t.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        table = Table.scan("items", "*.csv", folder)
        table.require(["id"])
        table.collect(table.frame)
    message = str(error.value).replace(f"{folder}/", "")
    assert "\n" not in message
    return message.removeprefix("data.items: t.csv: ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id,x\n1,a\n2,b\x00\n", f"line 3 has a NUL byte{TEXT}"),
        ("id,x\n1,a\n\n2,café\n".encode("latin-1"), f"line 4 has the byte 0xe9, which is no UTF-8{TEXT}"),
        (b"id,x\n1,2\n3,4,5\n6,7\n", f"line 3 has 3{FIELDS}"),
        (
            b"id,x\n" + MANY + b"abc,3\n",
            "line 10003: column 'id' holds 'abc', and whole numbers (i64) before; write one type of values",
        ),
    ],
)
def test_csv_files_that_cannot_be_read_are_named_by_line(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "s.csv").write_bytes(b"id,x\n1,2\n")
    assert csv_refusal(tmp_path, content) == told


# Ranges of rows


def written(folder: Path, form: str, sizes: tuple[int, ...]) -> Table:
    """A table of the numbers from 0 on, in files of so many rows."""
    first = 0
    for n, size in enumerate(sizes):
        rows = pl.DataFrame({"n": range(first, first + size)}, schema={"n": pl.Int64})
        write(rows, folder / f"{n}.{form}")
        first += size
    return Table.scan("log", f"*.{form}", folder)


def read(table: Table, size: int | None) -> pl.DataFrame:
    ranges = cut_table(pickle.loads(pickle.dumps(table)), size)
    return pl.concat(batch for rows in ranges for batch in rows.read(table, [pl.col("n")]))


@pytest.mark.parametrize(
    ("texts", "odd"),
    [
        (["2026-04-30 08:15:00", "2026-04-30", "n/a"], "; it holds '2026-04-30'"),
        (["2026-04-30 08:15:00", None, "n/a"], "; it holds 'n/a'"),
    ],
)
def test_of_times_in_a_csv_file_the_one_that_is_none_is_named(
    tmp_path: Path, texts: list[str | None], odd: str
) -> None:
    pl.DataFrame({"t": texts}).write_csv(tmp_path / "t.csv")
    with pytest.raises(DataError) as caught:
        Table.scan("log", "*.csv", tmp_path).moment("t")
    expected = "times: datetimes, dates or whole milliseconds"
    told = (
        f"column 't' is String; expected {expected}{odd}; write all alike, as 2026-04-30 08:15:00, or nothing"
    )
    assert str(caught.value) == f"data.log: {told}"


@pytest.mark.parametrize("size", [1, 2, 4, None])
@pytest.mark.parametrize("form", ["parquet", "feather", "csv"])
def test_ranges_cover_the_rows_of_all_files_once(tmp_path: Path, form: str, size: int | None) -> None:
    sizes = (2, 3, 4) if form == "csv" else (0, 3, 0, 5, 1, 0)  # a CSV file without rows has no types
    table = written(tmp_path, form, sizes)
    assert read(table, size).rows() == [(n, n) for n in range(9)]
    even = table.filter(pl.col("n") % 2 == 0)
    assert read(even, size).rows() == [(n, n) for n in range(0, 9, 2)], "a row keeps its number"


# Rows by time

ROWS = pl.DataFrame({ID: [2, 1, 2, 1], FROM: [5, NEVER, 7, 3], "price": [1.0, 2.0, 3.0, 4.0]})


def test_an_id_always_has_a_row() -> None:
    rows = VersionedRows.complete(ROWS, pl.Series([3]))
    assert rows.ids.values.to_list() == [1, 2, 3]
    positions = rows.find(pl.Series([1, 1, 2, 2, 3]), np.array([2, 3, 4, 8, 0]))
    assert rows.frame[positions]["price"].to_list() == [2.0, 4.0, None, 3.0, None]
