"""Packed data as arrays that every library reads: the same rows in the same order, codes, scaled numbers and lists.

Letters: N candidates · L the longest list of a feature.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.foreign.rows import FLAT, LABEL, PADDING, SPLITS, USER, Column, Rows
from corank.core.ragged import Ragged
from corank.core.types import Ints
from corank.data.packed.dataset import PackedDataset
from corank.features.encoding import Placement
from corank.training.boosted_trees import flatten_rows

SIDE: dict[Placement, Literal["query", "item", "cross"]] = {
    "query": "query",
    "item": "item",
    "snapshot": "item",
    "cross": "cross",
}
FIRST = PADDING + 1
"""The code that replaces corank's code 0."""


def export(packed: PackedDataset, folder: Path, flat: bool = True) -> Rows:
    """Write all splits of a log without vectors; `flat` is for trees."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = packed.schema
    assert not any(schema.row_features(placement).vectors for placement in SIDE)
    columns = [column for placement in SIDE for column in _columns(packed, placement)]
    rows = Rows(folder, columns, _categorical(packed) if flat else [])
    longest = _longest(packed)
    for split in SPLITS:
        np.savez(folder / f"{split}.npz", **_arrays(packed, split, longest, flat))  # type: ignore[arg-type]
    rows.save()
    return rows


def _columns(packed: PackedDataset, placement: Placement) -> list[Column]:
    schema, sizes, side = packed.schema, packed.encoders.sizes, SIDE[placement]
    placed = schema.row_features(placement)
    embedded = [("id", name) for name in placed.ids] + [("list", name) for name in placed.lists]
    columns = []
    for kind, name in embedded:
        table = schema.table_of(name)
        columns.append(Column(name, side, "id" if kind == "id" else "list", sizes[table] + FIRST, table))
    assert all(width == 1 for width in placed.widths)
    return columns + [Column(name, side, "number") for name in placed.numbers]


def _categorical(packed: PackedDataset) -> list[int]:
    few = flatten_rows(packed, packed.splits["train"][0]).categorical
    return np.flatnonzero(few).tolist()


def _longest(packed: PackedDataset) -> dict[str, int]:
    """The longest list of each list feature, in all splits."""
    longest: dict[str, int] = {}
    for shards in packed.splits.values():
        for shard in shards:
            for placement, (rows, index) in packed.placed_rows(shard).items():
                for n, name in enumerate(packed.schema.row_features(placement).lists):
                    most = int(rows.lists[n].length[index].max(initial=1))
                    longest[name] = max(longest.get(name, 1), most)
    return longest


def _arrays(
    packed: PackedDataset, split: str, longest: dict[str, int], flat: bool
) -> dict[str, NDArray[np.generic]]:
    label = next(iter(packed.data.labels))
    columns: dict[str, list[NDArray[np.generic]]] = {}
    for shard in packed.splits[split]:
        for placement, (rows, index) in packed.placed_rows(shard).items():
            placed = packed.schema.row_features(placement)
            for n, name in enumerate(placed.ids):
                columns.setdefault(name, []).append((rows.ids[:, n][index] + FIRST).astype(np.int32))
            for n, name in enumerate(placed.lists):
                columns.setdefault(name, []).append(_padded(rows.lists[n].take(index), longest[name]))
            for n, name in enumerate(placed.numbers):
                columns.setdefault(name, []).append(rows.numbers[:, n][index].astype(np.float32))
        columns.setdefault(LABEL, []).append(shard.labels[label].astype(np.float32))
        users = np.repeat(shard.user, np.diff(shard.request_start)).astype(np.int64)
        columns.setdefault(USER, []).append(users)
        if flat:
            columns.setdefault(FLAT, []).append(flatten_rows(packed, shard).values)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _padded(lists: Ragged, longest: int) -> Ints:
    """Codes of lists, filled up with padding: (N, L)."""
    there = np.arange(longest) < lists.length[:, None]
    codes = np.full(there.shape, PADDING, dtype=np.int32)
    codes[there] = lists.flat() + FIRST
    return codes
