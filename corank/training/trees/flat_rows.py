"""Packed rows as one table, a row a candidate, as boosted trees take them.

Letters: C candidates · F columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corank.core.ragged import Rows
from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.data.shard import Shard
from corank.features.schema import Placement
from corank.models.settings.trees import LEFT_OUT, MOST_CODES


@dataclass(frozen=True)
class FlatRows:
    """The candidates of a shard."""

    names: list[str]
    values: Floats  # (C, F)
    categorical: list[bool]
    """Whether a column holds codes without an order."""


def place_rows(packed: PackedDataset, shard: Shard) -> dict[Placement, tuple[Rows, NDArray[np.integer]]]:
    """The rows of each placement, and which of them each candidate has: (C,)."""
    of = np.repeat(np.arange(len(shard)), np.diff(shard.request_start))
    every = np.arange(len(of))
    return {
        "query": (shard.query, of),
        "item": (packed.items, shard.item),
        "snapshot": (shard.snapshot, every),
        "cross": (shard.cross, every),
    }


def flatten_rows(packed: PackedDataset, shard: Shard) -> FlatRows:
    """Bring what networks read to each candidate: numbers, codes of ids, lengths of lists; vectors are left out."""
    schema, sizes = packed.schema, packed.encoders.sizes
    columns: dict[str, Floats] = {}
    few: list[str] = []
    for placement, (rows, index) in place_rows(packed, shard).items():
        names = schema.row_features(placement)
        for n, name in enumerate(names.ids):
            if sizes.get(name, 0) <= LEFT_OUT:
                columns[name] = rows.ids[:, n][index].astype(np.float32)
                few += [name] if sizes.get(name, 0) <= MOST_CODES else []
        for name, numbers in names.numbers_at.items():
            for n in range(numbers.start, numbers.stop):
                columns[name if n == numbers.start else f"{name} {n - numbers.start}"] = rows.numbers[:, n][
                    index
                ]
        for n, name in enumerate(names.lists):
            columns[f"{name} length"] = rows.lists[n].length[index].astype(np.float32)
    values = np.stack(list(columns.values()), axis=1)
    return FlatRows(list(columns), values, [name in few for name in columns])
