"""Copies rows of an earlier table into a tensor that holds rows of a new one: whole, or those of a rank.

Letters: N rows that a tensor holds.
"""

import numpy as np
import torch
from torch import Tensor

from corank.core.types import Longs
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.features.row_maps.row_map import FRESH, RowMap
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.split_table import TableRows

ROWS = 1 << 18
"""Rows that are copied at a time."""


def dimension_of(table: str) -> int:
    """The dimension of a table, from a name such as `shared.weights.16`."""
    return int(table.rpartition(".")[2])


@torch.no_grad()
def fill_rows(
    target: Tensor, rows: TableRows, found: RowMap, held: Checkpoint, name: str, known: bool = False
) -> None:
    """Copy earlier rows into a tensor with a row for each row of a table; the others stay as they are.

    Args:
        target: (N, ...).
        rows: which rows of the table it holds.
        found: where each row of the table comes from.
        held: the checkpoint with the earlier rows.
        name: of the earlier tensor.
        known: leave out values that the earlier table did not know, which would begin as the row of unknown ones.
    """
    numbers = _row_numbers(rows)
    for first in range(0, len(numbers), ROWS):
        some = numbers[first : first + ROWS]
        at = np.flatnonzero(some < rows.rows)
        number = some[at]
        carried = found.source[number] != FRESH
        if known:
            carried &= found.kept[number]
        source = torch.from_numpy(found.source[number[carried]])
        values = held.gather(name, source).to(target.device)
        target.index_copy_(0, torch.from_numpy(at[carried] + first).to(target.device), values)


def _row_numbers(rows: TableRows) -> Longs:
    """The row of the table that each row of a tensor stands for; the table's size or above for none: (N,)."""
    if rows.whole:
        return np.arange(rows.rows)
    depth = np.arange(RowShards(rows.rows).depth)[:, None] * BUCKETS
    return (depth + np.arange(rows.buckets.start, rows.buckets.stop)).ravel()
