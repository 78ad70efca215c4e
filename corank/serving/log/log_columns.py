"""Which columns of a log of served requests are what, kept in each of its Parquet files."""

from pathlib import Path
from typing import Self

import msgspec
import polars as pl

from corank.core.errors import DataError

_KEY = "corank.served"
"""The entry of a Parquet file's metadata."""


class LogColumns(msgspec.Struct, frozen=True):
    """The columns by which a log of served requests is read."""

    user: str
    time: str
    item: str
    stages: tuple[str, ...]
    """In order; each has its `score_STAGE`."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read those of a file. Raises DataError if it is damaged, or of an earlier release."""
        try:
            text = pl.read_parquet_metadata(file).get(_KEY)
            if text is not None:
                return msgspec.json.decode(text, type=cls)
        except (OSError, pl.exceptions.PolarsError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {error}") from None
        raise DataError(
            f"{file}: does not say which of its columns are what; `corank serve --log` writes files that do"
        )

    def metadata(self) -> dict[str, str]:
        """The entry of a Parquet file's metadata."""
        return {_KEY: msgspec.json.encode(self).decode()}
