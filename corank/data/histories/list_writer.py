"""The lists of events that the requests of a partition have, read from the log or from the table of users.

Letters: R requests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.types import Longs
from corank.data.as_of import VersionedRows
from corank.data.column_sources import Source
from corank.data.histories.event_files import EventEncoder
from corank.data.histories.list_pieces import ListPieces, list_sources
from corank.data.log_rows import request_columns
from corank.features.log_schema import DataSettings
from corank.features.row_columns import ID, TIME, USER
from corank.features.schema import Schema


@dataclass(frozen=True)
class ListWriter:
    """Writes the pieces of lists of one partition after another."""

    schema: Schema
    data: DataSettings
    sources: dict[str, Source]
    """The table of each feature of a column."""
    spill: Path

    def write(
        self, shard: str, encoder: EventEncoder, users: VersionedRows, first_rows: pl.DataFrame
    ) -> list[tuple[ListPieces, Longs]]:
        """Write the lists of a partition.

        Args:
            shard: the partition.
            encoder: of events.
            users: the rows of users, of which each list is written once.
            first_rows: a row of the log for each request: (R,).

        Returns:
            Which list of the partition each request has: (R,) for each source of events.

        Raises:
            DataError: lists cannot be read.
        """
        written = []
        for pieces, names, most in list_sources(self.schema, self.spill):
            if self.sources[names[0]] == "users":
                row = users.find(first_rows[USER], first_rows[TIME].to_numpy())
                distinct, owner = np.unique(row, return_inverse=True)
                rows = users.frame[distinct]
                describe = _namer("users", {self.data.user: rows[ID]})
            else:
                owner, rows = np.arange(len(first_rows)), first_rows
                keys = {c: rows[name] for c, name in request_columns(self.data).items()}
                describe = _namer("log", keys)
            values = {column: rows[column] for column in self.schema.column_names(names)}
            pieces.write(shard, values, encoder, most, describe)
            written.append((pieces, owner.astype(np.int64)))
        return written


def _namer(table: str, keys: dict[str, pl.Series]) -> Callable[[int], str]:
    """Make the function that names a row of a table by its keys."""

    def describe(n: int) -> str:
        return f"data.{table}: " + ", ".join(f"{column}={values[n]!r}" for column, values in keys.items())

    return describe
