"""Parquet files that say in their metadata which of their columns are what."""

from pathlib import Path
from typing import ClassVar, Self

import msgspec
import polars as pl

from corank.core.errors import DataError


class FileColumns(msgspec.Struct, frozen=True):
    """Which columns of a Parquet file are what, in an entry of its metadata."""

    entry: ClassVar[str]

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read those of a file; None if corank did not write it. Raises DataError if it is damaged."""
        try:
            text = pl.read_parquet_metadata(file).get(cls.entry)
            return None if text is None else msgspec.json.decode(text, type=cls)
        except (OSError, pl.exceptions.PolarsError, msgspec.DecodeError) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {error}") from None

    def metadata(self) -> dict[str, str]:
        """The entry of a Parquet file's metadata."""
        return {self.entry: msgspec.json.encode(self).decode()}


class ServedColumns(FileColumns, frozen=True):
    """The columns of a log of served requests that every reader needs."""

    entry: ClassVar[str] = "corank.served"
    user: str
    time: str
    item: str
