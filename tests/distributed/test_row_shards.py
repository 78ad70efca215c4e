import numpy as np
import pytest

from corank.distributed.ranks import RowShards

WORLDS = [1, 2, 3, 4, 7, 30, 32]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 1000])
def test_every_row_lies_in_one_shard(rows: int, world: int) -> None:
    shards = RowShards(rows, world)
    rows_by_rank = [shards.rows_of(rank) for rank in range(world)]
    assert [len(own_rows) for own_rows in rows_by_rank] == [shards.size(rank) for rank in range(world)]
    assert sorted(row for own_rows in rows_by_rank for row in own_rows if row < rows) == list(range(rows))
    for rank, own_rows in enumerate(rows_by_rank):
        assert set(own_rows % 256) <= set(shards.buckets(rank))


@pytest.mark.parametrize("world", WORLDS)
def test_positions_are_those_of_rows_by_rank(world: int) -> None:
    shards, rows = RowShards(1000, world), np.random.default_rng(0).permutation(1000)[:300].astype(np.int32)
    at, counts = shards.by_rank(np.sort(shards.positions(rows)))
    assert len(counts) == world and sum(counts) == 300
    ends = np.cumsum(counts)
    parts = [shards.rows_of(rank)[part] for rank, part in enumerate(np.split(at, ends[:-1]))]
    assert sorted(np.concatenate(parts)) == sorted(rows)
