"""Counts of items' candidates, which packing writes for each split, against the shards themselves."""

from pathlib import Path

import numpy as np
import pytest

from corank.core.errors import DataError
from corank.core.time import NEVER
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.split_counts import COUNTS
from corank.data.packing import derive as count_items
from corank.data.packing import pack
from tests.support.versioned_log import LEVELS, pack_versioned_log


@pytest.fixture(params=[(2**20, 2**20), (40, 7)], ids=["at once", "by parts"])
def packed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackedDataset:
    partition, items = request.param
    monkeypatch.setattr(pack, "PARTITION", partition)
    monkeypatch.setattr(count_items, "ITEMS", items)
    return pack_versioned_log(tmp_path)[0]


def test_counts_are_those_of_all_shards(packed: PackedDataset) -> None:
    first = packed.item_keys["valid_from"].to_numpy() == NEVER
    ordinals = np.cumsum(first) - 1
    assert (packed.item_ordinals == ordinals).all() and len(ordinals) == 3 * first.sum()
    for split, shards in packed.splits.items():
        counts = packed.item_counts[split]
        item = ordinals[np.concatenate([shard.item for shard in shards])]
        level = np.concatenate([shard.level for shard in shards])
        for n, _ in enumerate(LEVELS):
            expected = np.bincount(item[level == n], minlength=int(first.sum()))
            assert (counts.candidates[n] == expected).all()
            assert counts.levels[n] == expected.sum() > 0
        assert (counts.seen == np.unique(item)).all()
        for levels in (None, {0, 2}):
            here = item if levels is None else item[np.isin(level, list(levels))]
            share = np.bincount(here, minlength=int(first.sum())) / len(here)
            asked = np.array([5, 0, 5, 12], dtype=np.int32)
            np.testing.assert_allclose(counts.shares(asked, levels), share[asked], rtol=1e-6)


def test_counts_of_another_size_are_refused(packed: PackedDataset) -> None:
    path = packed.folder / COUNTS / "train" / "level0.npy"
    np.save(path, np.zeros(3, dtype=np.int64))
    with pytest.raises(DataError, match=r"level0\.npy: expected"):
        PackedDataset.open(packed.folder)
