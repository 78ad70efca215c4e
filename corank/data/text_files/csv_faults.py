"""Faults of CSV files, by line.

polars takes NUL bytes and a header in another encoding as they are, and says neither file nor line of a row that it
cannot read. Compressed files, and those at a URL, are left to it.
"""

import codecs
import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from corank.core.formatting import shorten
from corank.core.storage.object_url import is_url

BLOCK = 1 << 24
"""Bytes that are checked at a time."""
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x9c", b"x\xda")
"""First bytes of files of gzip, zstd and zlib."""
_UNFIT = re.compile(
    r"could not parse `(.*)` as dtype `(\w+)` at column '(.*?)' \(column number (\d+)\)", re.DOTALL
)
_TYPES = {"i64": "whole numbers", "f64": "numbers", "bool": "true or false", "date": "dates"}


def find_bytes_fault(path: str) -> str | None:
    """Find the first line of a CSV file that is no text in UTF-8. Returns the error message; None if all is text.

    Raises OSError.
    """
    if not _is_plain(path):
        return None
    with Path(path).open("rb") as file:
        decoder, first = codecs.getincrementaldecoder("utf-8")(), 0
        while block := file.read(BLOCK):
            if (at := block.find(0)) >= 0:
                return _name_byte(file, first + at, "a NUL byte")
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                # the decoder's input begins with the unfinished letter of the block before
                at = first + len(block) - len(error.object) + error.start
                return _name_byte(file, at, f"the byte 0x{error.object[error.start]:02x}, which is no UTF-8")
            first += len(block)
        if rest := decoder.getstate()[0]:
            return _name_byte(file, first - len(rest), f"the byte 0x{rest[0]:02x}, which is no UTF-8")
    return None


def _name_byte(file: BinaryIO, at: int, what: str) -> str:
    file.seek(0)
    line, left = 1, at
    while left > 0:
        line += file.read(min(left, BLOCK)).count(b"\n")
        left -= BLOCK
    return f"{file.name}: line {line} has {what}; save the file as text in UTF-8"


def find_row_fault(paths: Iterable[str], error: str) -> str | None:
    """Find the first row of CSV files that does not fit, after polars could not read them.

    Args:
        paths: the files.
        error: the message of polars.

    Returns the error message with file, line and reason; None if no row explains it.
    """
    unfit = _UNFIT.search(error)
    for path in filter(_is_plain, paths):
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows, line = csv.reader(file, strict=True), 1
            try:
                width = len(next(rows, ()))
                while True:
                    line = rows.line_num + 1
                    if fault := _describe_row(next(rows), width, unfit):
                        return f"{path}: line {line}{fault}"
            except csv.Error:
                return f"{path}: line {line}: a quote is not closed, or another stands within it"
            except StopIteration:
                continue
    return None


def _describe_row(row: list[str], width: int, unfit: "re.Match[str] | None") -> str | None:
    """The end of the message on a row, if it is the one that was not read."""
    if len(row) > width:
        return f" has {len(row)} fields, and the first line {width}; quote text that holds a comma"
    if unfit is None or row[int(unfit[4]) - 1 :][:1] != [unfit[1]]:
        return None
    value, kind = shorten(repr(unfit[1])), f"{_TYPES.get(unfit[2], 'values')} ({unfit[2]})"
    return f": column '{unfit[3]}' holds {value}, and {kind} before; write one type of values"


def _is_plain(path: str) -> bool:
    """Whether a file is on this machine and is not compressed."""
    if is_url(path):
        return False
    with Path(path).open("rb") as file:
        return not file.read(4).startswith(_COMPRESSED)
