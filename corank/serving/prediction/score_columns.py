"""The meaning of the columns of predictions, kept in each of their Parquet files."""

from pathlib import Path
from typing import Self

import msgspec
import polars as pl

from corank.core.errors import DataError
from corank.features.log_schema import DataSettings

_KEY = "corank.predictions"
"""The entry of a Parquet file's metadata."""


class ScoreColumns(msgspec.Struct, frozen=True):
    """The columns of a table of scores that are no scores."""

    request: tuple[str, ...]
    """Of the request key."""
    user: str
    item: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, data: DataSettings) -> Self:
        """Those of predictions of a log."""
        labels = dict.fromkeys(label.column for label in data.labels.values())
        return cls(tuple(data.request), data.user, data.item, tuple(labels))

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read those of a file; None if `corank predict` did not write it. Raises DataError if it is damaged."""
        try:
            text = pl.read_parquet_metadata(file).get(_KEY)
            return None if text is None else msgspec.json.decode(text, type=cls)
        except (OSError, pl.exceptions.PolarsError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise DataError(f"{file}: cannot be read as Parquet: {error}") from None

    def metadata(self) -> dict[str, str]:
        """The entry of a Parquet file's metadata."""
        return {_KEY: msgspec.json.encode(self).decode()}
