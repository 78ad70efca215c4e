"""The vectors of a catalogue, or other item parts, as one file: tasks write ranges of rows, joined in order.

An item's newest row counts; the rows that it replaces are found by tasks first, in bounded memory.

Letters: N items of a batch · d last width of the towers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from corank.bundle.bundle import Bundle
from corank.bundle.content import ItemGraphs, read_snapshots, read_tables, store_parts
from corank.bundle.item_layers import ItemLayer
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.bundle.stage_facts import VECTOR, ItemPart, StageFacts
from corank.core.arrays import append_array, read_array, write_array
from corank.core.errors import BundleError, ConfigError, DataError
from corank.core.files import atomic_file, scratch_folder
from corank.core.objects import Location
from corank.core.reports import Progress
from corank.core.settings import describe_unknown
from corank.core.types import Longs, Mask
from corank.data.packing.workspace import SpreadRows, read_partition, write_beside
from corank.data.point_in_time import newest_rows, settle_versions
from corank.data.tables import VALID_FROM, RowRange, Table, cut_table
from corank.data.validate import check_rows, whole_checks
from corank.data.vector_files import with_vector_files
from corank.engine.base import Engine, SentByFields
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.features.log_schema import FROM, ID, ROW
from corank.features.priors import PriorSnapshots


@dataclass(frozen=True)
class CatalogueEncoder(SentByFields):
    """Encodes items outside a bundle. A worker gets where the files are, and opens them once."""

    folder: Path
    """The content of the bundle, which stays open where the encoder is made."""
    manifest: BundleManifest
    parts: tuple[ItemPart, ...]
    """Those that are computed."""
    threads: int = 0
    """Threads of the graphs; 0 for a thread a core."""

    @classmethod
    def of(cls, bundle: Bundle, threads: int = 0, parts: Sequence[str] = ()) -> "CatalogueEncoder":
        """Make the encoder of a bundle.

        Args:
            bundle: has encoders and graphs.
            threads: of the graphs; 0 for a thread a core.
            parts: of items that are computed, `STAGE.PART`; the vectors of all stages unless given.

        Raises ConfigError for a part that no stage has.
        """
        manifest = bundle.manifest
        known = {part.name: part for stage in manifest.stages for part in stage.parts}
        wanted = list(parts) or [f"{stage.name}.{VECTOR}" for stage in manifest.vector_stages]
        for name in wanted:
            if name not in known:
                raise ConfigError(f"--part: {describe_unknown(name, known, 'item part')}")
        chosen = tuple(part for name, part in known.items() if name in wanted)
        return cls(bundle.folder, manifest, chosen, threads)

    @cached_property
    def _encoders(self) -> Encoders:
        return Encoders.load(self.folder / "encoders", self.manifest.declared)

    @cached_property
    def _priors(self) -> PriorSnapshots:
        return read_snapshots(self.folder, self.manifest)

    @property
    def stages(self) -> list[StageFacts]:
        """Those that have one of the parts."""
        return [stage for stage in self.manifest.stages if any(part in self.parts for part in stage.parts)]

    @cached_property
    def graphs(self) -> ItemGraphs:
        """The graphs of the parts. Raises BundleError."""
        layout = Layout(self.manifest.declared, self._encoders.sizes)
        tables = read_tables(self.folder, self.manifest, layout)
        return ItemGraphs(self.folder, self.stages, layout, tables, self.threads)

    def encode(self, frame: pl.DataFrame) -> ItemLayer:
        """Encode items, of which the frame has a row each. Raises DataError, BundleError."""
        manifest = self.manifest
        records = ItemRecords.encode(
            frame, self._encoders, self._priors, manifest.item, manifest.item_columns
        )
        computed = self.graphs.compute_all(records.rows)
        parts = {part.name: computed[part.name] for part in self.parts}
        return ItemLayer(records, store_parts(parts, self.stages))


PARTITION = 2**20
"""Rows of a partition, about. It is of whole items."""


@dataclass(frozen=True)
class OlderRows:
    """The rows that are not their item's newest, by their number in the table."""

    paths: tuple[Path, ...]
    """Files of ascending numbers, of the partitions that have some."""
    count: int

    def mark_newest(self, first: int, rows: int) -> Mask:
        """Mark, among so many rows from a first one, those that are their item's newest: (rows,)."""
        newest = np.ones(rows, dtype=bool)
        for path in self.paths:
            older = read_array(path, np.int64, (None,))
            begin, end = np.searchsorted(older, [first, first + rows])
            newest[older[begin:end] - first] = False
        return newest


@dataclass(frozen=True)
class FindOlderRows:
    """Finds the older rows of a partition; its number is the task."""

    name: str
    """Of the table, for errors."""
    key: str
    files: Sequence[Path]
    """Those of `SpreadRows`."""
    folder: Path

    def path(self, n: int) -> Path:
        """Return where the numbers of a partition's older rows are written."""
        return self.folder / f"{n:06d}.npy"

    def __call__(self, n: int) -> int:
        """Write the numbers. Returns how many there are. Raises DataError if an item has two rows of one time."""
        every = read_partition(self.files, n)
        if every[ID].n_unique() == len(every):
            return 0
        rows = settle_versions(every)
        twice = rows.filter(rows.select(ID, FROM).is_duplicated())
        if len(twice):
            raise DataError(
                f"{self.name}: {self.key}={twice[ID].min()!r} is in several rows; keep one, or tell them apart by a "
                f"column '{VALID_FROM}'"
            )
        newest = newest_rows(rows)[ROW]
        older: Longs = np.setdiff1d(every[ROW].to_numpy(), newest.to_numpy(), assume_unique=True)
        with write_beside(self.path(n)) as partial:
            write_array(partial, np.sort(older))
        return len(older)


def find_older_rows(
    table: Table, key: str, ranges: Sequence[RowRange], engine: Engine, folder: Path
) -> OlderRows:
    """Find the rows that are not their item's newest.

    Args:
        table: with a row of each item, or several that `valid_from` distinguishes.
        key: its column of ids.
        ranges: the whole table.
        engine: runs the tasks.
        folder: receives files.

    Raises DataError: an id is null, or two rows of one item are of the same time.
    """
    nulls = table.collect(table.frame.select(table.key(key).null_count())).item()
    if nulls:
        raise DataError(f"{table.name}: column '{key}' is null in {nulls:,} rows")
    partitions = max(1, -(-sum(task.rows for task in ranges) // PARTITION))
    spread = SpreadRows(table, table.versions(key), [ID], partitions, folder / "ids")
    files = [folder / "ids" / name for names in engine.run(spread, ranges) for name in names]
    find = FindOlderRows(table.name, key, files, folder / "older")
    counts = engine.run(find, range(partitions))
    for path in files:
        path.unlink(missing_ok=True)
    return OlderRows(tuple(find.path(n) for n, count in enumerate(counts) if count), sum(counts))


RANGE = 2**19
"""Rows of a task."""
BATCH = 65_536
"""Items encoded at once."""


@dataclass(frozen=True)
class WriteVectors:
    """The task that encodes a range of rows and writes the vectors of its newest ones."""

    table: Table
    encoder: CatalogueEncoder
    older: OlderRows
    folder: Path
    """Receives the parts."""
    batch: int

    def path(self, task: RowRange) -> Path:
        """Return where the part of a range is written."""
        return self.folder / f"{task.first:015d}.arrow"

    def __call__(self, task: RowRange) -> int:
        """Write a part. Returns how many items it has. Raises DataError, BundleError."""
        written, schema = 0, vector_schema(self.table, self.encoder)
        with write_beside(self.path(task)) as partial, pa.ipc.new_file(str(partial), schema) as writer:
            for rows in self._newest_rows(task):
                layer = self.encoder.encode(rows)
                writer.write_batch(_to_batch(layer, schema))
                written += len(rows)
        return written

    def _newest_rows(self, task: RowRange) -> Iterator[pl.DataFrame]:
        """Read the rows in batches whose bounds depend on the table alone."""
        manifest, first = self.encoder.manifest, task.first
        columns, key = manifest.request_columns.item, manifest.item
        own = [self.table.key(key), *map(pl.col, self.table.own(columns))]
        for read in task.read(self.table, own):
            frame = self.table.look_up(read, key, columns)
            for rows in frame.iter_slices(self.batch):
                newest = self.older.mark_newest(first, len(rows))
                first += len(rows)
                if newest.any():
                    yield rows.filter(pl.Series(newest))


def vector_schema(table: Table, encoder: CatalogueEncoder) -> pa.Schema:
    """Return the columns of the file: the id, and `PART.STAGE` for each item part, such as `vector.prerank`."""
    ids = table.collect(table.frame.select(table.key(encoder.manifest.item)).head(0)).to_arrow().schema
    fields = [ids.field(0)]
    for name, width, _ in encoder.parts:
        stage, _, part = name.rpartition(".")
        fields.append(pa.field(f"{part}.{stage}", pa.list_(pa.float32(), width)))
    return pa.schema(fields)


def _to_batch(layer: ItemLayer, schema: pa.Schema) -> pa.RecordBatch:
    columns = [layer.records.ids.values.to_arrow().cast(schema.types[0])]
    for field in list(schema)[1:]:
        part, _, stage = field.name.partition(".")
        vectors = np.ascontiguousarray(layer.parts[f"{stage}.{part}"].decode())
        listed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        columns.append(listed.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _join_parts(paths: Sequence[Path], schema: pa.Schema, out: Path) -> None:
    """Write the rows of parts as one Parquet file, and remove each part when it is written."""
    # vectors repeat too seldom for a dictionary, which would only be tried and dropped
    with pq.ParquetWriter(out, schema, use_dictionary=schema.names[:1]) as writer:
        for path in paths:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as part:
                for n in range(part.num_record_batches):
                    writer.write_batch(part.get_batch(n))
            path.unlink()


def _join_as_arrays(paths: Sequence[Path], items: int, width: int, out: Path) -> None:
    """Write the one item part as an npy file (N, d), and its ids as `NAME.ids.npy`, from parts."""
    tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
    ids = pl.from_arrow(pa.concat_tables(tables).column(0))
    assert isinstance(ids, pl.Series)
    with atomic_file(ids_file(out)) as partial:
        write_array(partial, ids.to_numpy() if ids.dtype.is_integer() else np.array(ids.to_list(), dtype=str))
    with atomic_file(out) as partial, append_array(partial, (items, width), np.float32) as append:
        for table in tables:
            for batch in table.to_batches():
                append(batch.column(1).flatten().to_numpy())


def ids_file(out: Path) -> Path:
    """The file of the ids that belong to an npy file of vectors."""
    return out.with_suffix(".ids.npy")


def _open_items(source: str, manifest: BundleManifest) -> Table:
    """Open a table of items, with vectors from files for columns that it lacks. Raises DataError."""
    table = Table.scan("items", source, Path(), manifest.data.nulls)
    table = with_vector_files(table, manifest.item, manifest.declared, Path(), only_absent=True)
    table.require([manifest.item, *manifest.request_columns.item])
    check_rows(table, whole_checks(table, [manifest.item]))
    return table


def write_catalogue(
    bundle: Location,
    source: str,
    out: Path,
    engine: Engine,
    progress: Progress = lambda done, total: None,
    parts: Sequence[str] = (),
) -> int:
    """Write item parts of a table of items as Parquet: the id, and `PART.STAGE`, such as `vector.prerank`.

    To a file `NAME.npy` one part is written as an array, and the ids to `NAME.ids.npy`, in the same order.

    Numbers are those that a stage reads: rounded as the bundle stores the part.

    The same bytes for any engine and number of workers.

    Args:
        bundle: the bundle that encodes them.
        source: the table; an item's newest row counts. A vector whose column it lacks is read from the feature's
            `file`, relative to the working folder.
        out: the file, which is written whole or not at all. Parts lie in a folder next to it until then.
        engine: runs the tasks.
        progress: receives items done and in all.
        parts: `STAGE.PART`; the vectors of all stages unless given.

    Returns:
        How many items were written.

    Raises:
        BundleError: the bundle is damaged, or `out` cannot be written.
        DataError: the table cannot be encoded, or is empty.
        ConfigError: no stage has a part, or an array cannot hold several.
        EngineError: a worker ended again and again.
    """
    opened = Bundle.open(bundle)
    encoder, key = CatalogueEncoder.of(opened, engine.threads, parts), opened.manifest.item
    as_array = out.suffix == ".npy"
    if as_array and len(encoder.parts) > 1:
        names = ", ".join(part.name for part in encoder.parts)
        raise ConfigError(
            f"{out}: an array holds one item part, not {names}; choose one by --part, or write .parquet"
        )
    table = _open_items(source, opened.manifest)
    ranges = cut_table(table, RANGE)
    try:
        with scratch_folder(out) as scratch:
            older = find_older_rows(table, key, ranges, engine, scratch)
            items = sum(task.rows for task in ranges) - older.count
            if not items:
                raise DataError(f"{source}: has no items")
            write = WriteVectors(table, encoder, older, scratch / "vectors", BATCH)
            engine.run(write, ranges, lambda n, of: progress(items * n // of, items))
            paths = [write.path(task) for task in ranges]
            if as_array:
                _join_as_arrays(paths, items, encoder.parts[0].width, out)
            else:
                with atomic_file(out) as partial:
                    _join_parts(paths, vector_schema(table, encoder), partial)
    except OSError as error:
        raise BundleError(f"{out}: cannot be written: {error}; what was there before is untouched") from None
    return items
