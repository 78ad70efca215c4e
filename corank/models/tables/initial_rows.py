"""The first rows of a table: drawn bucket by bucket, so that they depend on neither the number of ranks nor their rank.

Letters: d dimension.
"""

import numpy as np
import torch
from torch import Tensor

from corank.core.types import Ints
from corank.distributed.ranks import BUCKETS, RowShards

SCALE = 0.02
"""Standard deviation of the rows' numbers."""


def draw_rows(shards: RowShards, rank: int, dim: int, untrained: Ints, seed: int, name: str) -> Tensor:
    """Draw a rank's rows of a table: (size, d). No more than these, and a bucket besides them, is in memory.

    Args:
        shards: how the table's rows are spread.
        rank: whose rows.
        dim: d.
        untrained: table rows of missing and unknown values, which begin at zero.
        seed: of the training.
        name: of the set of tables, such as `shared`.
    """
    buckets = shards.buckets(rank)
    seeds = np.random.SeedSequence([seed, dim, *name.encode()]).generate_state(BUCKETS)
    weight = torch.zeros(shards.depth, len(buckets), dim)
    for n, bucket in enumerate(buckets):
        count = len(range(bucket, shards.rows, BUCKETS))
        generator = torch.Generator().manual_seed(int(seeds[bucket]))
        weight[:count, n] = torch.empty(count, dim).normal_(std=SCALE, generator=generator)
    position, start = shards.positions(untrained), shards.first_position
    owned = position[(position >= start[rank]) & (position < start[rank + 1])] - start[rank]
    rows = weight.view(-1, dim)
    rows[torch.from_numpy(owned)] = 0
    return rows
