"""A sample of training rows' numbers, from which networks may learn before the first step."""

from functools import cache
from typing import cast

import numpy as np

from corank.core.types import Floats
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import Shard
from corank.distributed.ranks import Ranks
from corank.features.encoding import Placement
from corank.models.joint import JointModel
from corank.models.stage_model import StageModel

SAMPLED = 1 << 16
"""Training rows, about, of a sample."""
SHARDS = 8
"""Shards, at most, that they come from: a shard has requests by hash, and all others would have to be fetched."""


def fit_networks(model: JointModel, packed: PackedDataset, ranks: Ranks) -> None:
    """Call `StageModel.fit_numbers` of all networks. A collective: all ranks take the first one's sample.

    Args:
        model: drawn, not trained.
        packed: the data; of items each counts as often as the log has it.
        ranks: the processes that train together.
    """

    @cache
    def sample(placement: Placement) -> Floats:
        rows = sample_numbers(packed, placement).tolist() if ranks.first else None
        return np.array(ranks.share(rows, "a sample of numbers"), dtype=np.float32)

    for network in model.networks.values():
        cast(StageModel, network).fit_numbers(sample)


def sample_numbers(packed: PackedDataset, placement: Placement) -> Floats:
    """Take scaled numbers of training rows, evenly spread, the same for the same data: (S, numbers)."""
    shards = packed.splits["train"]
    some = [shards[n] for n in np.unique(np.linspace(0, len(shards) - 1, SHARDS).astype(int))]
    samples = [_rows(packed, shard, placement, SAMPLED // len(some)) for shard in some]
    return np.concatenate(samples)


def _rows(packed: PackedDataset, shard: Shard, placement: Placement, count: int) -> Floats:
    total = len(shard) if placement == "query" else len(shard.item)
    at = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
    rows = {"query": shard.query, "item": packed.items, "snapshot": shard.snapshot, "cross": shard.cross}
    with packed.naming_damage():
        return rows[placement].numbers.take(shard.item[at] if placement == "item" else at, axis=0)
