import numpy as np
import pytest
import torch

from corank.batches.build import build_batch
from corank.distributed.ranks import Ranks, RowShards
from corank.models.tables.embedding import sum_rows
from tests.support.encoded_batches import LAYOUT, encoded_batch, rows


@pytest.mark.parametrize("world", [2, 3, 32])
def test_reads_of_a_sharded_table_give_the_sums_of_the_whole_one(world: int) -> None:
    each = np.arange(12)
    sides = rows(np.random.default_rng(world), 4, 12, 12)
    encoded = encoded_batch(sides, each // 3, each, np.zeros(12), np.zeros(12))
    plain, sharded = build_batch(LAYOUT, encoded), build_batch(LAYOUT, encoded, Ranks(1, world), sharded=True)
    for dim, count in LAYOUT.table_rows.items():
        table, shards = (
            torch.randn(count, dim, generator=torch.Generator().manual_seed(dim)),
            RowShards(count, world),
        )
        lookup, owner = sharded.lookups[dim], np.repeat(np.arange(world), sharded.lookups[dim].owned)
        touched_rows = [
            shards.rows_of(int(rank))[at] for rank, at in zip(owner, lookup.touched.tolist(), strict=True)
        ]
        assert sorted(touched_rows) == plain.lookups[dim].touched.tolist()
        for placement, read in lookup.reads.items():
            wanted = sum_rows(table, plain.lookups[dim].reads[placement])
            assert torch.equal(sum_rows(table[touched_rows], read), wanted)
        gradient = torch.randn(int(lookup.back.row.max()) + 1, dim)
        back = dict(
            zip(plain.lookups[dim].touched.tolist(), sum_rows(gradient, plain.lookups[dim].back), strict=True)
        )
        for row, summed in zip(touched_rows, sum_rows(gradient, lookup.back), strict=True):
            assert torch.equal(summed, back[row])
