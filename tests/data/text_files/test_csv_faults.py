"""CSV files that are no text, or whose rows do not fit: refused in one line that names the file's line."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import DataError
from corank.data.tables import Table

MANY = b"1,2\n" * 10_001
"""Rows beyond those from which the types of columns are inferred."""


def refusal(folder: Path, content: bytes) -> str:
    (folder / "t.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        table = Table.scan("items", "t.csv", folder)
        table.require(["id"])
        table.collect(table.frame)
    message = str(error.value).replace(f"{folder}/", "")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id,x\n1,a\n2,b\x00\n", "line 3 has a NUL byte"),
        (b"id\x00,x\n1,a\n", "line 1 has a NUL byte"),
        ("id,x\n1,a\n".encode("utf-16"), "line 1 has a NUL byte"),
        ("id,x\n1,a\n\n2,café\n".encode("latin-1"), "line 4 has the byte 0xe9, which is no UTF-8"),
        ("id,né\n1,a\n".encode("latin-1"), "line 1 has the byte 0xe9, which is no UTF-8"),
        (b"id,x\n" + MANY + "1,é".encode()[:-1], "line 10003 has the byte 0xc3, which is no UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    assert refusal(tmp_path, content) == f"data.items: t.csv: {told}; save the file as text in UTF-8"


def test_a_letter_of_several_bytes_may_lie_on_the_border_of_two_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corank.data.tables.BLOCK", 3)
    rows = pl.DataFrame({"id": ["é" * n for n in range(1, 9)], "x": range(8)})
    rows.write_csv(tmp_path / "t.csv")
    assert Table.scan("items", "t.csv", tmp_path).frame.collect().equals(rows)
    assert "line 3 has the byte 0xff" in refusal(
        tmp_path, "id,x\né,1\né,\xff\n".encode().replace(b"\xc3\xbf", b"\xff")
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"id,x\n1,2\n3,4,5\n6,7\n",
            "line 3 has 3 fields, and the first line 2; quote text that holds a comma",
        ),
        (
            b'id,x\n1,"a\nb"\n3,4,5\n',
            "line 4 has 3 fields, and the first line 2; quote text that holds a comma",
        ),
        (b'id,x\n1,a\n2,"b\n3,c\n', "line 3: a quote is not closed, or another stands within it"),
        (
            b"id,x\n" + MANY + b"abc,3\n",
            "line 10003: column 'id' holds 'abc', and whole numbers (i64) before; write one type of values",
        ),
        (
            b"id,x\n" + MANY + b"99999999999999999999,3\n",
            "line 10003: column 'id' holds '99999999999999999999', and whole numbers (i64) before; "
            "write one type of values",
        ),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    assert refusal(tmp_path, content) == f"data.items: t.csv: {told}"


def test_of_several_files_the_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,x\n1,2\n")
    (tmp_path / "b.csv").write_bytes(b"id,x\n1,2\n1,2,3\n")
    table = Table.scan("items", "*.csv", tmp_path)
    with pytest.raises(DataError, match=r"data\.items: .*b\.csv: line 3 has 3 fields"):
        table.collect(table.frame)


def test_compressed_files_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"id,x\n1,2\n"))
    table = Table.scan("items", "t.csv", tmp_path)
    assert table.collect(table.frame).rows() == [(1, 2)]
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"id,x\n1,2\n1,2,3\n"))
    with pytest.raises(DataError, match=r"^data\.items: found more fields than defined in 'Schema'$"):
        table.collect(table.frame)
