"""The rows of a table spread over partitions by their request: a file for each range of rows, in which every partition
has a part. A partition is read from all these files, in the order of the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from corank.core.types import Ints
from corank.data.packing.workspace import write_beside
from corank.data.row_ranges import RowRange
from corank.data.tables import Table
from corank.features.vocabulary import hash_values, mix_hashes


@dataclass(frozen=True)
class SpreadRows:
    """The task that spreads a range of rows. Its memory is that of a batch."""

    table: Table
    columns: list[pl.Expr]
    request: list[str]
    """The columns of the request key, among those."""
    partitions: int
    folder: Path
    """Receives the files."""

    def __call__(self, task: RowRange) -> list[str]:
        """Write a file for each batch of the range. Returns their names, in order. Raises DataError."""
        names = []
        for n, batch in enumerate(task.read(self.table, self.columns)):
            names.append(f"{task.first:015d}.{n:06d}.arrow")
            with write_beside(self.folder / names[-1]) as partial:
                self._write(partial, batch)
        return names

    def _write(self, path: Path, batch: pl.DataFrame) -> None:
        if self.partitions > 1:
            # numpy sorts 16 bits by radix
            part = hash_requests(batch, self.request, self.partitions).astype(np.uint16)
            order = np.argsort(part, kind="stable")
            batch, bounds = batch[order], np.searchsorted(part[order], np.arange(self.partitions + 1))
        else:
            bounds = np.array([0, len(batch)])
        rows = batch.rechunk().to_arrow().combine_chunks()
        with path.open("wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            for first, end in pairwise(bounds):
                writer.write_batch(_single(rows.slice(first, end - first)))


def _single(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)


def hash_requests(rows: pl.DataFrame, request: Sequence[str], partitions: int) -> Ints:
    """Return the partition of each row: (N,). The same on every machine, in every version.

    Args:
        rows: the log's or the truth's.
        request: the columns of the request key.
        partitions: their number.
    """
    keys = (rows[name] for name in request)
    hashes = [hash_values(key.to_physical() if key.dtype.is_temporal() else key, "request") for key in keys]
    return (mix_hashes(hashes) % np.uint64(partitions)).astype(np.int32)


def read_partition(files: Sequence[Path], n: int) -> pl.DataFrame:
    """Memory-map the rows of a partition, in the order of the table."""
    return pl.DataFrame(pa.Table.from_batches(_parts(files, n)))


def _parts(files: Sequence[Path], n: int) -> Iterator[pa.RecordBatch]:
    for path in files:
        with pa.memory_map(str(path)) as source:
            yield pa.ipc.open_file(source).get_batch(n)
