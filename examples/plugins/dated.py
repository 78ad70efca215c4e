"""A table format: a folder of Parquet files for each day."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from corank.core.errors import DataError
from corank.data.table_formats import TABLE_FORMATS, FileVersion


class Dated:
    """Tables that are written anew each day: `dated://TABLE` is TABLE/DAY, the newest unless `?day=DAY` follows."""

    def pin(self, address: str, base: Path) -> str:
        table, _, day = address.removeprefix("dated://").partition("?day=")
        folder = base.absolute() / table
        days = sorted(path.name for path in folder.glob("*-*-*"))
        if not days:
            raise DataError(f"{address}: {folder} has no folder of a day, such as 2026-04-27")
        return f"dated://{folder}?day={day or days[-1]}"

    def list_files(self, address: str, base: Path) -> dict[str, FileVersion]:
        table, _, chosen = address.partition("#")
        pinned = self.pin(table, base)
        folder = Path(pinned.removeprefix("dated://").replace("?day=", "/"))
        files = [Path(chosen)] if chosen else sorted(folder.glob("*.parquet"))
        return {f"{pinned}#{file}": (file.stat().st_size, str(file.stat().st_mtime_ns)) for file in files}

    def scan(self, address: str, files: Sequence[str]) -> pl.LazyFrame:
        return pl.scan_parquet(list(files))


TABLE_FORMATS.add("dated", Dated())
