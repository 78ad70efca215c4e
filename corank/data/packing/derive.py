"""Packing's last steps: derived features (crosses, priors) computed, their encoders fitted, and rows completed.

They come last, since they need histories that are cut, and priors that are counted.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.core.arrays import read_array, read_frame, write_array, write_frame
from corank.core.ragged import Rows
from corank.core.types import Doubles, Hashes, Longs, Mask
from corank.data.dataset import PackedDataset
from corank.data.derived_columns import Derived, derive_features
from corank.data.histories.event_pieces import ENCODERS
from corank.data.pack_manifest import PackManifest
from corank.data.packed_history import request_operands
from corank.data.packing.fit_encoders import fit_terms
from corank.data.packing.measure import MeasuredColumn, fit_features
from corank.data.packing.shards import logged_operands
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, write_beside
from corank.data.shard import scalar_features
from corank.data.state.value_counts import write_counts_of_values
from corank.data.tables import Table
from corank.features.encoders import Encoders, assemble_rows, hashes_to_series, split_rows
from corank.features.operand_rows import OperandRows
from corank.features.operands import OperandNames, Operands
from corank.features.row_columns import TIME
from corank.features.schema import CANDIDATE_PLACEMENTS, PLACEMENTS, Placement, Schema

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


def derive_columns(workspace: PackWorkspace, manifest: PackManifest, inputs: PackSources) -> Encoders:
    """Add the derived features to all rows without them. Returns the complete encoders.

    Args:
        workspace: of the packing; histories are cut, and priors counted.
        manifest: of the packed data, but for the files.
        inputs: the tables, and the packing to continue from.
    """
    schema, packed, spill = Schema(manifest.features), workspace.packed, workspace.spill
    shards = [(split, shard.name) for split, shards in manifest.splits.items() for shard in shards]
    derive = DeriveValues(packed, spill, manifest)
    workspace.run("derived values", derive, [*shards, ("", "")])
    groups = [RowGroup(p, *key) for key in shards for p in PLACEMENTS if p != "item" and schema.derived(p)]
    if schema.derived("item"):
        groups.append(RowGroup("item"))
    workspace.run_here("derived encoders", lambda: _fit(workspace, schema, groups, inputs))
    complete = CompleteRows(packed, spill, schema)
    workspace.run("derived rows", complete, groups)
    return complete.encoders


def _fit(workspace: PackWorkspace, schema: Schema, groups: list[RowGroup], inputs: PackSources) -> None:
    """Fit the encoders of the derived features to the values of training rows, and save them with the others."""
    spill = workspace.spill
    tables = {
        placement: Table.scan_arrow(placement, [g.values(spill) for g in groups if g.placement == placement])
        for placement in dict.fromkeys(group.placement for group in groups)
    }
    training = pl.col(_TRAINING)
    columns = {}
    for name, feature in schema.derived().items():
        placement = schema.placement(name)
        time = None if placement == "item" else pl.col(TIME)
        columns[name] = feature, MeasuredColumn(tables[placement], pl.col(name), training, time)
    known = Encoders.load(spill / ENCODERS, schema, derived=False)
    terms = fit_terms(inputs.start, schema, inputs.until)
    fitted = fit_features(columns, spill / "fit derived", workspace.engine, terms)
    write_counts_of_values(workspace.packed, schema, fitted.tallies)
    Encoders(schema, known.fitted | fitted.encoders).save(workspace.packed / "encoders")


@dataclass(frozen=True)
class DeriveValues:
    """Computes the derived features of a shard, of which split and name are the task, or of all items: two blanks."""

    folder: Path
    """Of the packed data."""
    spill: Path
    manifest: PackManifest

    def __getstate__(self) -> dict[str, Any]:
        """Return the state sent to a worker, without what is mapped here."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @cached_property
    def packed(self) -> PackedDataset:
        """The packed data, without derived features."""
        schema = Schema(self.manifest.features)
        encoders = Encoders.load(self.spill / ENCODERS, schema, derived=False)
        return PackedDataset.load(self.folder, self.manifest, encoders, derived=False)

    def __call__(self, key: tuple[str, str]) -> None:
        """Write the values of the rows."""
        split, name = key
        if not name:
            self._write_items()
            return
        packed, schema = self.packed, self.packed.schema
        names = [shard.name for shard in self.manifest.splits[split]]
        shard = packed.splits[split][names.index(name)]
        requests = np.arange(len(shard))
        operands = request_operands(packed, shard, requests)
        alone = OperandRows.alone(schema, "query", operands)
        values = derive_features(
            schema, "query", alone, packed.priors, shard.time, sizes=np.diff(shard.request_start)
        )
        self._write(RowGroup("query", split, name), values, np.full(len(shard), split == "train"), shard.time)
        request_of = np.repeat(requests, np.diff(shard.request_start))
        wanted, folder = OperandNames.of(schema, "cross"), logged_operands(self.spill, split, name)
        logged = Operands.load(folder, wanted, len(request_of))
        pairs = OperandRows.pairs(schema, operands, packed.item_operands, request_of, shard.item, logged)
        times = shard.time[request_of]
        for placement in CANDIDATE_PLACEMENTS:
            values = derive_features(schema, placement, pairs, packed.priors, times)
            training = np.full(len(times), split == "train")
            self._write(RowGroup(placement, split, name), values, training, times)

    def _write_items(self) -> None:
        packed = self.packed
        begin = packed.item_keys["valid_from"].to_numpy()
        sides = OperandRows.alone(packed.schema, "item", packed.item_operands)
        values = derive_features(packed.schema, "item", sides, packed.priors, begin)
        self._write(RowGroup("item"), values, begin < packed.data.training_end(), begin)

    def _write(self, group: RowGroup, values: Derived, training: Mask, times: Longs) -> None:
        if values:
            columns = {name: _to_series(column) for name, column in values.items()}
            with write_beside(group.values(self.spill)) as partial:
                write_frame(partial, pl.DataFrame({_TRAINING: training, TIME: times} | columns))


@dataclass(frozen=True)
class CompleteRows:
    """Adds the derived features to the rows of a group: the task."""

    folder: Path
    """Of the packed data."""
    spill: Path
    schema: Schema

    def __getstate__(self) -> dict[str, Any]:
        """Return the state sent to a worker, without what is read here."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @cached_property
    def encoders(self) -> Encoders:
        """The complete encoders."""
        return Encoders.load(self.folder / "encoders", self.schema)

    def __call__(self, group: RowGroup) -> None:
        """Write complete rows in the place of those that lack features; what is complete stays as it is."""
        placed = self.schema.row_features(group.placement)
        known, derived = scalar_features(self.schema, group.placement), self.schema.derived(group.placement)
        values = read_frame(group.values(self.spill))
        for part, names in (("ids", placed.ids), ("numbers", placed.numbers)):
            path, features = group.folder(self.folder) / f"{part}.npy", placed.select(names)
            old = read_array(path)
            if old.shape[1] == (len(features.ids) if part == "ids" else features.width):
                continue  # the task ran before, or there is no derived feature of this sort
            none = old[:, :0]
            rows = Rows(old, none, ()) if part == "ids" else Rows(none, old, ())
            columns = split_rows(known.select(names), rows)
            for name in derived.keys() & set(names):
                columns[name] = self.encoders.encode_derived(name, _to_array(values[name]))
            whole = assemble_rows(features, columns, len(old))
            with write_beside(path) as partial:  # the old rows may still be mapped
                write_array(partial, whole.ids if part == "ids" else whole.numbers)


def _to_series(values: Hashes | Doubles) -> pl.Series:
    """Values as a column: hashes as Int64, numbers with null for NaN; several numbers a row as arrays."""
    if values.dtype == np.uint64:
        return hashes_to_series(values)
    return pl.Series(values).fill_nan(None) if values.ndim == 1 else pl.Series(values)


def _to_array(column: pl.Series) -> Hashes | Doubles:
    if column.dtype == pl.Int64:
        return column.fill_null(0).to_numpy().view(np.uint64)
    return column.to_numpy() if column.dtype == pl.Array else column.fill_null(np.nan).to_numpy()
