"""Rows of tables: the first ones, drawn whatever the number of ranks; and rows of matrices, read and summed."""

import numpy as np
import pytest
import torch

from corank.distributed.row_shards import RowShards
from corank.models.tables.builder import draw_rows

UNTRAINED = np.array([0, 1, 300, 301], dtype=np.int32)


@pytest.mark.parametrize("world", [2, 3, 32])
@pytest.mark.parametrize("rows", [310, 1000])
def test_rows_do_not_depend_on_the_number_of_ranks(rows: int, world: int) -> None:
    whole = draw_rows(RowShards(rows), 0, 4, UNTRAINED, 7, "shared")[:rows]
    shards = RowShards(rows, world)
    for rank in range(world):
        part, row = draw_rows(shards, rank, 4, UNTRAINED, 7, "shared"), shards.rows_of(rank)
        assert torch.equal(part[row < rows], whole[row[row < rows]])
        assert not part[row >= rows].any()
    assert not whole[UNTRAINED].any()


def test_rows_are_near_zero_and_differ_by_seed_set_and_dimension() -> None:
    one = draw_rows(RowShards(4000), 0, 8, UNTRAINED, 7, "shared")[:4000]
    assert float(one.std()) == pytest.approx(0.02, rel=0.02) and abs(float(one.mean())) < 1e-3
    assert len(one.unique()) > 0.99 * one.numel() - 4 * 8, "no two buckets draw the same"
    for dim, seed, name in ((8, 8, "shared"), (8, 7, "prerank"), (16, 7, "shared")):
        other = draw_rows(RowShards(4000), 0, dim, UNTRAINED, seed, name)[:4000, :8]
        assert (other == one).double().mean() < 0.01
