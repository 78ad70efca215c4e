"""Bins of numbers, learnt from training rows before the first step."""

import numpy as np

from corank.core.types import Floats
from corank.data.dataset import PackedDataset
from corank.data.shard import Shard
from corank.distributed.ranks import Ranks
from corank.features.schema import PLACEMENTS, Placement
from corank.models.inputs.numbers import PiecewiseEmbedding
from corank.models.joint import JointModel

SAMPLED = 1 << 16
"""Training rows, about, that bins are learnt from."""
SHARDS = 8
"""Shards, at most, that they come from: a shard has requests by hash, and all others would have to be fetched."""


def fit_number_bins(model: JointModel, packed: PackedDataset, ranks: Ranks) -> None:
    """Learn the bins of all networks that cut numbers into some. A collective: all take the first rank's.

    Args:
        model: drawn, not trained.
        packed: the data; of items each counts as often as the log has it.
        ranks: the processes that train together.
    """
    for placement in PLACEMENTS:
        fitted = [
            module
            for network in model.networks.values()
            for name, module in network.named_modules()
            if name == f"numbers.{placement}" and isinstance(module, PiecewiseEmbedding)
        ]
        if not fitted:
            continue
        rows = sample_numbers(packed, placement).tolist() if ranks.first else None
        sample = np.array(ranks.share(rows, "bins of numbers"), dtype=np.float32)
        for embedding in fitted:
            embedding.fit(sample)


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
