"""Packing's last steps: items' candidates counted, derived features (crosses, priors) computed, and rows completed.

Derived features come last, since they need histories that are cut, and priors that are counted. A shard's counts of
candidates are sparse, stored in files, and merged a range of items at a time: memory is that of a shard and, by item
row, the number of its item.

Letters: I items · L levels · M pairs of an item and a level.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import append_array, read_array, read_frame, write_array, write_arrays, write_frame
from corank.core.ragged import Rows
from corank.core.time import NEVER
from corank.core.types import Doubles, Hashes, Longs, Mask
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import request_operands
from corank.data.packed.manifest import PackManifest, ShardCount
from corank.data.packed.shard import scalar_features
from corank.data.packed.split_counts import COUNTS, FILE, ORDINALS, mark_requests
from corank.data.packing.first_pass import PackedTables
from corank.data.packing.fit_encoders import MeasuredColumn, fit_features
from corank.data.packing.shards import logged_operands
from corank.data.packing.sources import PackSources
from corank.data.packing.state import write_counts_of_values
from corank.data.packing.workspace import PackWorkspace, write_beside
from corank.data.tables import Table
from corank.engine.base import SentByFields
from corank.features.encoders import Encoders, assemble_rows, hashes_to_series, split_rows
from corank.features.encoding import CANDIDATE_PLACEMENTS, PLACEMENTS, Placement
from corank.features.log_schema import TIME, DataSettings
from corank.features.operands import OperandRows, Operands
from corank.features.row_encoder import Derived

_TRAINING = "@training"


@dataclass(frozen=True)
class RowGroup:
    """Rows of one placement that lack the derived features: those of all items, or of a shard."""

    placement: Placement
    split: str = ""
    shard: str = ""

    def folder(self, packed: Path) -> Path:
        """Return the folder of the rows."""
        return packed / self.split / self.shard / self.placement if self.shard else packed / "items"

    def values(self, spill: Path) -> Path:
        """Return the file of the values of the derived features."""
        name = f"{self.split}.{self.shard}.{self.placement}" if self.shard else self.placement
        return spill / "values" / f"{name}.arrow"


def derive_columns(
    workspace: PackWorkspace, manifest: PackManifest, inputs: PackSources, tables: PackedTables
) -> Encoders:
    """Add the derived features to all rows without them. Returns the complete encoders.

    Args:
        workspace: of the packing; histories are cut, and priors counted.
        manifest: of the packed data, but for the files.
        inputs: the tables, and the packing to continue from.
        tables: encoders, items and users.
    """
    schema = inputs.schema
    shards = [(split, shard.name) for split, shards in manifest.splits.items() for shard in shards]
    workspace.run("derived values", DeriveValues(tables, manifest), [*shards, ("", "")])
    groups = [RowGroup(p, *key) for key in shards for p in PLACEMENTS if p != "item" and schema.derived(p)]
    if schema.derived("item"):
        groups.append(RowGroup("item"))
    workspace.run_here("derived encoders", lambda: _fit(workspace, inputs, tables, groups))
    complete = CompleteRows(tables)
    workspace.run("derived rows", complete, groups)
    return complete.encoders


def _fit(workspace: PackWorkspace, inputs: PackSources, tables: PackedTables, groups: list[RowGroup]) -> None:
    """Fit the encoders of the derived features to the values of training rows, and save them with the others."""
    schema, spill = inputs.schema, workspace.spill
    values = {
        placement: Table.scan_arrow(placement, [g.values(spill) for g in groups if g.placement == placement])
        for placement in dict.fromkeys(group.placement for group in groups)
    }
    training = pl.col(_TRAINING)
    columns = {}
    for name, feature in schema.derived().items():
        placement = schema.placement(name)
        time = None if placement == "item" else pl.col(TIME)
        columns[name] = feature, MeasuredColumn(values[placement], pl.col(name), training, time)
    folder, start, until = spill / "fit derived", inputs.start, inputs.until
    fitted, tallies = fit_features(columns, folder, workspace.engine, start, schema, until)
    write_counts_of_values(workspace.packed, schema, tallies)
    Encoders(schema, tables.encoders.fitted | fitted).save(workspace.packed / "encoders")


@dataclass(frozen=True)
class DeriveValues(SentByFields):
    """Computes the derived features of a shard, of which split and name are the task, or of all items: two blanks."""

    tables: PackedTables
    manifest: PackManifest

    @cached_property
    def packed(self) -> PackedDataset:
        """The packed data, without derived features."""
        return PackedDataset.load(self.tables.folder, self.manifest, self.tables.encoders, derived=False)

    def __call__(self, key: tuple[str, str]) -> None:
        """Write the values of the rows."""
        split, name = key
        if not name:
            self._write_items()
            return
        packed, schema, encoders = self.packed, self.packed.schema, self.packed.row_encoders
        names = [shard.name for shard in self.manifest.splits[split]]
        shard = packed.splits[split][names.index(name)]
        requests = np.arange(len(shard))
        operands = request_operands(packed, shard, requests)
        alone = OperandRows.alone(schema.operand_placements, "query", operands)
        values = encoders["query"].values(alone, packed.priors, shard.time, np.diff(shard.request_start))
        self._write(RowGroup("query", split, name), values, np.full(len(shard), split == "train"), shard.time)
        request_of = np.repeat(requests, np.diff(shard.request_start))
        folder = logged_operands(self.tables.spill, split, name)
        logged = Operands.load(folder, encoders["cross"].operands, len(request_of))
        pairs = OperandRows.pairs(
            schema.operand_placements, operands, packed.item_operands, request_of, shard.item, logged
        )
        times = shard.time[request_of]
        for placement in CANDIDATE_PLACEMENTS:
            values = encoders[placement].values(pairs, packed.priors, times)
            training = np.full(len(times), split == "train")
            self._write(RowGroup(placement, split, name), values, training, times)

    def _write_items(self) -> None:
        packed = self.packed
        begin = packed.item_keys["valid_from"].to_numpy()
        sides = OperandRows.alone(packed.schema.operand_placements, "item", packed.item_operands)
        values = packed.row_encoders["item"].values(sides, packed.priors, begin)
        self._write(RowGroup("item"), values, begin < packed.data.training_end(), begin)

    def _write(self, group: RowGroup, values: Derived, training: Mask, times: Longs) -> None:
        if values:
            columns = {name: _to_series(column) for name, column in values.items()}
            with write_beside(group.values(self.tables.spill)) as unfinished:
                write_frame(unfinished, pl.DataFrame({_TRAINING: training, TIME: times} | columns))


@dataclass(frozen=True)
class CompleteRows(SentByFields):
    """Adds the derived features to the rows of a group: the task."""

    tables: PackedTables

    @cached_property
    def encoders(self) -> Encoders:
        """The complete encoders."""
        return Encoders.load(self.tables.folder / "encoders", self.tables.schema)

    def __call__(self, group: RowGroup) -> None:
        """Write complete rows in the place of those that lack features; what is complete stays as it is."""
        schema = self.tables.schema
        placed = schema.row_features(group.placement)
        known, derived = scalar_features(schema, group.placement), schema.derived(group.placement)
        values = read_frame(group.values(self.tables.spill))
        for part, names in (("ids", placed.ids), ("numbers", placed.numbers)):
            path, features = group.folder(self.tables.folder) / f"{part}.npy", placed.select(names)
            old = read_array(path)
            if old.shape[1] == (len(features.ids) if part == "ids" else features.width):
                continue  # the task ran before, or there is no derived feature of this sort
            none = old[:, :0]
            rows = Rows(old, none, ()) if part == "ids" else Rows(none, old, ())
            columns = split_rows(known.select(names), rows)
            for name in derived.keys() & set(names):
                columns[name] = self.encoders.encode_derived(name, _to_array(values[name]))
            whole = assemble_rows(features, columns, len(old))
            with write_beside(path) as unfinished:  # the old rows may still be mapped
                write_array(unfinished, whole.ids if part == "ids" else whole.numbers)


def _to_series(values: Hashes | Doubles) -> pl.Series:
    """Values as a column: hashes as Int64, numbers with null for NaN; several numbers a row as arrays."""
    if values.dtype == np.uint64:
        return hashes_to_series(values)
    return pl.Series(values).fill_nan(None) if values.ndim == 1 else pl.Series(values)


def _to_array(column: pl.Series) -> Hashes | Doubles:
    if column.dtype == pl.Int64:
        return column.fill_null(0).to_numpy().view(np.uint64)
    return column.to_numpy() if column.dtype == pl.Array else column.fill_null(np.nan).to_numpy()


ITEMS = 2**20
"""Items that are merged at a time."""


def _count_candidates(folder: Path, spill: Path, data: DataSettings, shard: str) -> None:
    """Count the candidates of a shard by item and level; the task is its path in the packed data, `folder`.

    Writes `cell`, the item times L plus the level, ascending, `candidates` of each, (M,); marks of requests.
    """
    levels = len(data.levels)
    item = read_array(folder / ORDINALS)[read_array(folder / shard / "item.npy")]
    cell = item.astype(np.int64) * levels + read_array(folder / shard / "level.npy")
    cells, candidates = np.unique(cell, return_counts=True)
    files = ("request_start", "level", *(f"label.{label}" for label in data.labels))
    start, level, *labels = (read_array(folder / shard / f"{file}.npy") for file in files)
    requests = mark_requests(start, level, levels, labels)
    with write_beside(part_of(spill, shard)) as unfinished:
        write_arrays(unfinished, {"cell": cells, "candidates": candidates, "requests": requests})


def _merge_counts(folder: Path, spill: Path, levels: int, items: int, task: tuple[str, list[str]]) -> None:
    """Sum the counts of a split's shards, to be opened as `ItemCounts`; the task is its name and the shards' paths."""
    split, shards = task
    parts = [part_of(spill, shard) for shard in shards]
    mapped = [(read_array(part / "cell.npy"), read_array(part / "candidates.npy")) for part in parts]
    seen, total = [np.empty(0, dtype=np.int32)], np.zeros(levels, dtype=np.int64)
    with write_beside(folder / COUNTS / split) as out, ExitStack() as stack:
        out.mkdir()
        columns = [append_array(out / f"level{n}.npy", (items,), np.int64) for n in range(levels)]
        append = [stack.enter_context(column) for column in columns]
        for first, end in pairwise([*range(0, items, ITEMS), items]):
            summed = np.zeros((end - first) * levels, dtype=np.int64)
            for cell, candidates in mapped:
                here = slice(*np.searchsorted(cell, (first * levels, end * levels)))
                summed[cell[here] - first * levels] += candidates[here]
            by_item = summed.reshape(-1, levels)
            for level, add in enumerate(append):
                add(by_item[:, level])
            seen.append((np.flatnonzero(by_item.any(1)) + first).astype(np.int32))
            total += by_item.sum(0)
        write_arrays(out, {"seen": np.concatenate(seen), "levels": total})
        marks = [read_array(part / FILE) for part in parts]
        with append_array(out / FILE, (sum(map(len, marks)),), np.uint64) as add_marks:
            for mark in marks:
                add_marks(mark)


def part_of(spill: Path, shard: str) -> Path:
    """Return the folder of a shard's counts."""
    return spill / "counts" / shard


def count_items(
    workspace: PackWorkspace, splits: Mapping[str, Sequence[ShardCount]], data: DataSettings
) -> None:
    """Write the item of each item row, count the candidates of each split by item and level, and mark its requests."""
    folder, spill, levels = workspace.packed, workspace.spill, len(data.levels)
    items = workspace.run_here("item ordinals", lambda: _write_ordinals(folder))
    shards = {split: [f"{split}/{shard.name}" for shard in counts] for split, counts in splits.items()}
    count = partial(_count_candidates, folder, spill, data)
    merge = partial(_merge_counts, folder, spill, levels, items)
    workspace.run("item counts", count, [shard for of_split in shards.values() for shard in of_split])
    workspace.run("merged item counts", merge, list(shards.items()))


def _write_ordinals(folder: Path) -> int:
    """Write the item of each item row. Returns how many items there are."""
    begins = read_frame(folder / "items" / "keys.arrow")["valid_from"].to_numpy() == NEVER
    with write_beside(folder / ORDINALS) as unfinished:
        write_array(unfinished, (np.cumsum(begins) - 1).astype(np.int32))
    return int(begins.sum())
