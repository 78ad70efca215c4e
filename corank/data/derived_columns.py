"""Derived features of rows: one code for packed data, batches, bundles and requests.

Packing derives last, when histories are cut and every prior is counted. It computes the values of all shards, fits
encoders to those of the training rows, and writes the rows again with all features.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import read_frame, write_array, write_frame
from corank.core.files import atomic_file
from corank.core.ragged import Rows
from corank.core.types import Doubles, Hashes, Index, Longs, Mask
from corank.data.dataset import PackedDataset, prior_folder
from corank.data.packed.logged_requests import LoggedRequests
from corank.data.packed_history import request_operands
from corank.data.packing.measure import MeasuredColumn, fit_features
from corank.data.packing.shards import scalar_features
from corank.data.shard import Shard
from corank.data.tables import Table
from corank.engine.base import Engine
from corank.features.encoders import Encoders, assemble_rows, hashes_to_series, split_rows
from corank.features.encoding import Encoded
from corank.features.operand_rows import OperandRows
from corank.features.priors import PointInTime, PriorSnapshots, count_pieces
from corank.features.schema import PLACEMENTS, Placement, Schema

Derived = Mapping[str, Hashes | Doubles]
"""By feature: hashes, 0 where missing, or numbers, NaN where missing: (N,)."""


def derive_features(
    schema: Schema,
    placement: Placement,
    sides: OperandRows,
    priors: PriorSnapshots,
    times: Longs,
    names: Collection[str] | None = None,
) -> Derived:
    """Compute the derived features of N rows of a placement, all or some, at times (N,) in ms UTC."""
    return {
        name: feature.derive(sides, PointInTime(name, times, priors))
        for name, feature in schema.derived(placement).items()
        if names is None or name in names
    }


def encode_columns(encoders: Encoders, values: Derived) -> dict[str, Encoded]:
    """Encode derived features as codes and numbers, by name."""
    return {name: encoders.encode_derived(name, column) for name, column in values.items()}


def pair_rows(
    packed: PackedDataset, rows: LoggedRequests, requests: Index, request_of: Index, item: Index
) -> Rows:
    """Make the cross rows of X pairs that were not logged: derived features are computed, logged ones are missing.

    Args:
        requests: of a batch, R of `rows`.
        request_of, item: each pair's among them, and its item row: (X,).
    """
    schema = packed.schema
    columns = packed.encoders.encode_frame("cross", pl.DataFrame({"": [None] * len(item)}))
    if schema.derived("cross"):
        operands = request_operands(packed, rows, requests)
        pairs = OperandRows.pairs(schema, operands, packed.item_operands, request_of, item)
        values = derive_features(schema, "cross", pairs, packed.priors, rows.time[requests][request_of])
        columns |= encode_columns(packed.encoders, values)
    return assemble_rows(schema.row_features("cross"), columns, len(item))


def derive_columns(packed: PackedDataset, spill: Path, engine: Engine) -> Encoders:
    """Add the derived features to all rows of packed data that lack them; return the complete encoders.

    Args:
        spill: where pieces of what the priors count lie (`prior<n>.*.arrow`), and values may.
    """
    for n, _ in enumerate(packed.schema.priors()):
        count_pieces(sorted(spill.glob(f"prior{n}.*.arrow"))).save(prior_folder(packed.folder, n))
    parts = [_Part("item", packed.folder / "items", packed.items, spill / "item.arrow")]
    _write_items(packed, parts[0].values)
    for split, shards in packed.splits.items():
        for shard in shards:
            stem = f"{split}.{shard.folder.name}"
            query = _Part("query", shard.folder / "query", shard.query, spill / f"{stem}.query")
            cross = _Part("cross", shard.folder / "cross", shard.cross, spill / f"{stem}.cross")
            _write_shard(packed, shard, split == "train", query.values, cross.values)
            parts += [query, cross]
    tables = {
        p: Table.scan_arrow(p, [part.values for part in parts if part.placement == p]) for p in PLACEMENTS
    }
    known = fit_features(
        {
            name: (
                feature,
                MeasuredColumn(tables[packed.schema.placement(name)], pl.col(name), pl.col(_TRAINING)),
            )
            for name, feature in packed.schema.derived().items()
        },
        spill / "derived",
        engine,
    )
    encoders = Encoders(packed.schema, packed.encoders.fitted | known)
    for part in parts:
        part.rewrite(encoders)
    return encoders


_TRAINING = "@training"


@dataclass(frozen=True)
class _Part:
    """Rows that lack the derived features, and the file of their values."""

    placement: Placement
    folder: Path
    rows: Rows
    values: Path

    def rewrite(self, encoders: Encoders) -> None:
        """Write the complete rows. By renaming, since the old ones are still mapped."""
        schema, frame = encoders.schema, read_frame(self.values)
        columns = split_rows(scalar_features(schema, self.placement), self.rows)
        for name in schema.derived(self.placement):
            columns[name] = encoders.encode_derived(name, _unspilled(frame[name]))
        placed = schema.row_features(self.placement)
        single = placed.select((*placed.ids, *placed.numbers))
        whole = assemble_rows(single, columns, len(self.rows))
        for name, array in (("ids", whole.ids), ("numbers", whole.numbers)):
            with atomic_file(self.folder / f"{name}.npy") as partial:
                write_array(partial, array)


def _write_items(packed: PackedDataset, path: Path) -> None:
    begin = packed.item_keys["valid_from"].to_numpy()
    sides = OperandRows.alone(packed.schema, "item", packed.item_operands)
    values = derive_features(packed.schema, "item", sides, packed.priors, begin)
    _, valid = packed.data.splits()["train"]
    _spill(path, values, begin < valid)


def _write_shard(packed: PackedDataset, shard: Shard, training: bool, query: Path, cross: Path) -> None:
    schema, requests = packed.schema, np.arange(len(shard))
    operands = request_operands(packed, shard, requests)
    alone = OperandRows.alone(schema, "query", operands)
    _spill(
        query,
        derive_features(schema, "query", alone, packed.priors, shard.time),
        np.full(len(shard), training),
    )
    request_of = np.repeat(requests, np.diff(shard.request_start))
    pairs = OperandRows.pairs(schema, operands, packed.item_operands, request_of, shard.item)
    values = derive_features(schema, "cross", pairs, packed.priors, shard.time[request_of])
    _spill(cross, values, np.full(len(request_of), training))


def _spill(path: Path, values: Derived, training: Mask) -> None:
    columns = {name: _spilled(column) for name, column in values.items()}
    write_frame(path, pl.DataFrame({_TRAINING: training} | columns))


def _spilled(values: Hashes | Doubles) -> pl.Series:
    """Values as a column: hashes as Int64, numbers with null for NaN; several numbers a row as arrays."""
    if values.dtype == np.uint64:
        return hashes_to_series(values)
    return pl.Series(values).fill_nan(None) if values.ndim == 1 else pl.Series(values)


def _unspilled(column: pl.Series) -> Hashes | Doubles:
    if column.dtype == pl.Int64:
        return column.fill_null(0).to_numpy().view(np.uint64)
    return column.to_numpy() if column.dtype == pl.Array else column.fill_null(np.nan).to_numpy()
