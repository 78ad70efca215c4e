"""Formats of tables that have versions, such as those of a lakehouse; each is a part, found by an entry point.

The address of such a table begins with the name of its format: `delta://PATH`, `delta+s3://BUCKET/KEY`. A data file of
it has the name ADDRESS#FILE, where the address names one version, so that each worker reads the same rows.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from corank.core.errors import DataError, PluginError
from corank.core.registry import Registry

_ADDRESS = re.compile(r"([a-z][a-z0-9_]*)(\+\w+)?://")
FileVersion = tuple[int, str]
"""Bytes of a data file, and a hash of what else its rows depend on."""


class TableFormat(Protocol):
    """Reads tables of a format. All methods raise DataError, StorageError or MissingExtraError."""

    def pin(self, address: str, base: Path) -> str:
        """Add its newest version to the address of a table, if it names none; a path is relative to `base`."""
        ...

    def list_files(self, address: str, base: Path) -> dict[str, FileVersion]:
        """List the data files of a table, or the one after `#`, by the name ADDRESS#FILE."""
        ...

    def scan(self, address: str, files: Sequence[str]) -> pl.LazyFrame:
        """Scan some files, in order, of a table whose address names a version."""
        ...


def _check(what: str, part: Any) -> None:
    if missing := [name for name in ("pin", "list_files", "scan") if not callable(getattr(part, name, None))]:
        raise PluginError(f"{what}: lacks {', '.join(missing)}")


TABLE_FORMATS = Registry[TableFormat]("table format", "corank.tables", "corank.data.table_formats", _check)


def find_format(address: str) -> TableFormat | None:
    """The format of a table or of a data file of one; None if the text is a path, a glob or a URL of plain files."""
    match = _ADDRESS.match(address)
    return TABLE_FORMATS[match[1]] if match is not None and match[1] in TABLE_FORMATS else None


def scan_versions(paths: Sequence[str]) -> pl.LazyFrame:
    """Scan data files of tables, in order. Raises DataError if their version is gone."""
    frames = []
    for address, files in groupby(paths, lambda path: path.partition("#")[0]):
        form = find_format(address)
        if form is None:  # in a process of its own, which knows what is installed alone
            raise DataError(f"{address}: an unknown format; register it by an entry point, not by --plugin")
        frames.append(form.scan(address, [file.partition("#")[2] for file in files]))
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def plain_name(path: str) -> str:
    """The path or URL of a data file itself; of any other text the text."""
    if "#" not in path or find_format(path) is None:
        return path
    return path.partition("#")[2].removeprefix("file://")
