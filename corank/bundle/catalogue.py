"""Item vectors of a whole catalogue: a table of items, batch by batch, in bounded memory.

Letters: N items of a batch · d last width of the towers.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from corank.bundle.bundle import Bundle
from corank.bundle.content import read_snapshots, read_tables
from corank.bundle.item_layers import ItemLayer
from corank.bundle.item_records import ItemRecords
from corank.bundle.item_vectors import ItemTowers
from corank.core.errors import BundleError, DataError
from corank.core.files import atomic_file
from corank.core.storage.object_url import Location
from corank.core.types import Mask, Progress
from corank.data.as_of import newest_rows
from corank.data.tables import VALID_FROM, Table
from corank.data.validate import check_rows, whole_checks
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.features.row_columns import FROM, ID, ROW

BATCH = 65_536
"""Items encoded at once."""


class Catalogue:
    """A table of items, as a bundle encodes it: the newest row of every item."""

    def __init__(self, bundle: Bundle, source: str, base: Path = Path()) -> None:
        """Open a table of items.

        Raises:
            DataError: the table cannot be read, an item has no id, or it has two rows of one time.
            BundleError: the bundle is damaged.
        """
        manifest, folder = bundle.manifest, bundle.folder
        self.table, self.manifest = Table.scan("items", source, base), manifest
        schema = manifest.declared
        self._columns = manifest.request_columns.item
        self.table.require([manifest.item, *self._columns])
        check_rows(self.table, whole_checks(self.table, [manifest.item]))
        self._encoders = Encoders.load(folder / "encoders", schema)
        self._priors = read_snapshots(folder, manifest)
        layout = Layout(schema, self._encoders.sizes)
        self._towers = ItemTowers(
            folder, manifest.vector_tables, layout, read_tables(folder, manifest, layout)
        )
        self._newest = self._newest_rows()

    def __len__(self) -> int:
        return int(self._newest.sum())

    def _newest_rows(self) -> Mask:
        """Mark the rows that are their item's newest: the only thing kept of the whole table."""
        table, key = self.table, self.manifest.item
        columns = [table.key(key).alias(ID), table.valid_from().alias(FROM)]
        rows = table.collect(table.frame.select(columns).with_row_index(ROW))
        if rows[ID].null_count():
            raise DataError(f"{table.name}: column '{key}' is null in {rows[ID].null_count():,} rows")
        if rows[ID].n_unique() == len(rows):
            return np.ones(len(rows), dtype=bool)
        twice = rows.filter(rows.select(ID, FROM).is_duplicated())
        if len(twice):
            raise DataError(
                f"{table.name}: {key}={twice[ID].min()!r} is in several rows; keep one, or tell them apart by a "
                f"column '{VALID_FROM}'"
            )
        newest = np.zeros(len(rows), dtype=bool)
        newest[newest_rows(rows)[ROW].to_numpy()] = True
        return newest

    def batches(self) -> Iterator[ItemLayer]:
        """Encode N items at a time, in the order of the table. Raises DataError, BundleError."""
        first, key = 0, self.manifest.item
        for rows in self.table.batches(
            [self.table.key(key), *map(pl.col, self._columns)], len(self._newest), BATCH
        ):
            frame = rows.filter(pl.Series(self._newest[first : first + len(rows)]))
            first += len(rows)
            if len(frame):
                records = ItemRecords.encode(
                    frame, self._encoders, self._priors, key, self.manifest.item_columns
                )
                yield ItemLayer(records, self._towers.vectors(records.rows))


def write_catalogue(
    bundle: Location, source: str, out: Path, progress: Progress = lambda done, total: None
) -> int:
    """Write the vectors of a table of items as Parquet: the id, and `vector.STAGE` for each towers stage.

    Args:
        bundle: the bundle that encodes them.
        source: the table.
        out: the file, which is written whole or not at all.
        progress: receives items done and in all.

    Returns:
        How many items were written.

    Raises:
        BundleError: the bundle is damaged, or `out` cannot be written.
        DataError: the table cannot be encoded, or is empty.
    """
    opened = Bundle.open(bundle)
    catalogue = Catalogue(opened, source)
    key, done = opened.manifest.item, 0
    try:
        with atomic_file(out) as partial, ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for layer in catalogue.batches():
                columns = {key: layer.records.ids.values.to_arrow()}
                for stage, vectors in layer.vectors.items():
                    flat = pa.array(np.ascontiguousarray(vectors).ravel())
                    columns[f"vector.{stage}"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
                table = pa.table(columns)
                writer = writer or stack.enter_context(pq.ParquetWriter(partial, table.schema))
                writer.write_table(table)
                done += len(table)
                progress(done, len(catalogue))
            if writer is None:
                raise DataError(f"{source}: has no items")
    except OSError as error:
        raise BundleError(f"{out}: cannot be written: {error}; what was there before is untouched") from None
    return done
