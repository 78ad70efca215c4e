"""A table is read by ranges as it is read whole, and rows keep their numbers."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from corank.data import tables as row_ranges
from corank.data.tables import Table, cut_table
from corank.features.log_schema import ROW


@dataclass(frozen=True)
class KeepEven:
    """A step of a table."""

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.filter(pl.col("n") % 2 == 0)


def written(folder: Path, form: str, sizes: tuple[int, ...] = (0, 3, 0, 5, 1, 0)) -> Table:
    first = 0
    for n, size in enumerate(sizes):
        frame = pl.DataFrame({"n": range(first, first + size)}, schema={"n": pl.Int64})
        path = folder / f"{n}.{form}"
        if form == "csv":
            frame.write_csv(path)
        elif form == "parquet":
            frame.write_parquet(path)
        else:
            frame.write_ipc(path)
        first += size
    return Table.scan("log", f"*.{form}", folder)


def read(table: Table, size: int | None) -> pl.DataFrame:
    ranges = cut_table(pickle.loads(pickle.dumps(table)), size)
    return pl.concat(batch for rows in ranges for batch in rows.read(table, [pl.col("n")]))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, None])
@pytest.mark.parametrize("form", ["parquet", "feather", "csv"])
def test_ranges_cover_the_rows_of_all_files_once(tmp_path: Path, form: str, size: int | None) -> None:
    sizes = (2, 3, 4) if form == "csv" else (0, 3, 0, 5, 1, 0)  # a CSV file without rows has no types
    assert read(written(tmp_path, form, sizes), size).rows() == [(n, n) for n in range(9)]


@pytest.mark.parametrize("size", [1, 2, None])
def test_a_row_keeps_its_number_when_others_are_left_out(tmp_path: Path, size: int | None) -> None:
    table = written(tmp_path, "parquet").keep(KeepEven())
    assert table.collect(table.frame)["n"].to_list() == [0, 2, 4, 6, 8]
    assert read(table, size).rows() == [(n, n) for n in range(0, 9, 2)]


def test_an_empty_table_is_one_range(tmp_path: Path) -> None:
    table = read(written(tmp_path, "parquet", (0, 0)), None)
    assert table.schema == {ROW: pl.Int64, "n": pl.Int64} and not len(table)


def test_a_csv_file_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_ranges, "BATCH", 4)
    table = written(tmp_path, "csv", (9, 1))
    (rows,) = cut_table(table)
    batches = list(rows.read(table, [pl.col("n")]))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert pl.concat(batches)[ROW].to_list() == list(range(10))
